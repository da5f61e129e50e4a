"""Neighbour pairs against sums over images and against ASE, and the skin list against fresh searches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from blipcalc.core.neighbors import NeighborList, _search_box, neighbor_pairs

CELL = np.array([[4.1, 0.0, 0.0], [1.3, 3.7, 0.0], [-0.9, 0.8, 4.6]])
PATTERNS = list(itertools.product([False, True], repeat=3))


def brute_force(positions, cell, pbc, cutoff):
    """All pairs by a sum over images, in canonical order (target, source, shift)."""
    reach = np.zeros(3, dtype=int)
    for axis in np.flatnonzero(pbc):
        inverse = np.linalg.inv(cell + np.diag(1.0 * ~cell.any(axis=1)))[:, axis]
        spread = np.ptp(positions @ inverse)
        reach[axis] = int(np.ceil(cutoff * np.linalg.norm(inverse) + spread))
    rows = []
    images = list(itertools.product(*(range(-n, n + 1) for n in reach)))
    for target, source in itertools.product(range(len(positions)), repeat=2):
        for image in images:
            distance = np.linalg.norm(positions[source] - positions[target] + np.array(image) @ cell)
            if distance < cutoff and (target != source or any(image)):
                rows.append((target, source, *image))
    return np.array(sorted(rows), dtype=np.int64).reshape(-1, 5)


def as_rows(edge_index, shifts):
    return np.column_stack([edge_index[1], edge_index[0], shifts])


def from_ase(positions, cell, pbc, cutoff):
    i, j, s = neighbor_list("ijS", Atoms(positions=positions, cell=cell, pbc=pbc), cutoff)
    return np.array(sorted(np.column_stack([i, j, s]).tolist()), dtype=np.int64).reshape(-1, 5)


def check(positions, cell, pbc, cutoff):
    rows = as_rows(*neighbor_pairs(positions, cell, pbc, cutoff))
    np.testing.assert_array_equal(rows, brute_force(positions, cell, np.array(pbc), cutoff))
    np.testing.assert_array_equal(rows, from_ase(positions, cell, pbc, cutoff))
    return rows


@pytest.mark.parametrize("cutoff", [2.0, 5.5])
@pytest.mark.parametrize("pbc", PATTERNS)
def test_all_patterns(pbc, cutoff):
    rng = np.random.default_rng(3)
    assert len(check(rng.random((6, 3)) @ CELL, CELL, pbc, cutoff))


@pytest.mark.parametrize("pbc", PATTERNS)
def test_atoms_outside_the_cell(pbc):
    rng = np.random.default_rng(4)
    check(rng.uniform(-1.7, 2.4, (5, 3)) @ CELL, CELL, pbc, 4.0)


@pytest.mark.parametrize("pbc", PATTERNS)
def test_zero_vectors_along_open_axes(pbc):
    rng = np.random.default_rng(5)
    cell = CELL * np.array(pbc)[:, None]
    check(rng.uniform(-3.0, 6.0, (7, 3)), cell, pbc, 4.5)


@pytest.mark.parametrize("pbc", PATTERNS)
def test_large_structures_with_open_axes(pbc):
    rng, cell = np.random.default_rng(8), 4 * CELL
    positions = rng.random((400, 3)) @ cell + [100.0, -50.0, 7.0]
    rows = as_rows(*neighbor_pairs(positions, cell, pbc, 3.0))
    np.testing.assert_array_equal(rows, from_ase(positions, cell, pbc, 3.0))
    box, _ = _search_box(positions, cell, np.array(pbc), 3.0)
    assert (np.linalg.norm(box[~np.array(pbc)], axis=1) > 3.0).all()


def test_left_handed_cell():
    check(np.random.default_rng(6).random((4, 3)) @ CELL, CELL[[1, 0, 2]], (True, True, True), 4.0)


@pytest.mark.parametrize("cutoff", [2.6, 9.0])
def test_one_atom_smaller_than_the_cutoff(cutoff):
    cell = np.array([[2.5, 0.0, 0.0], [0.4, 2.4, 0.0], [0.2, -0.3, 2.55]])
    rows = check(np.array([[0.3, 0.1, -0.2]]), cell, (True, True, True), cutoff)
    assert (rows[:, :2] == 0).all()


@pytest.mark.parametrize("positions", [[[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]]])
def test_no_pairs_at_all(positions):
    edge_index, shifts = neighbor_pairs(np.array(positions), np.zeros((3, 3)), (False,) * 3, 5.0)
    assert edge_index.shape == (2, 0)
    assert shifts.shape == (0, 3)
    assert edge_index.dtype == shifts.dtype == np.int64


def test_the_cutoff_is_open():
    positions = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    assert neighbor_pairs(positions, np.zeros((3, 3)), (False,) * 3, 3.0)[0].shape[1] == 0
    assert neighbor_pairs(positions, np.zeros((3, 3)), (False,) * 3, np.nextafter(3.0, 4.0))[0].shape[1] == 2


def test_order_is_canonical_and_every_pair_has_its_reverse():
    rng = np.random.default_rng(8)
    rows = as_rows(*neighbor_pairs(rng.random((20, 3)) @ (2 * CELL), 2 * CELL, (True, True, True), 5.0))
    np.testing.assert_array_equal(rows, np.array(sorted(rows.tolist())))
    assert len(np.unique(rows, axis=0)) == len(rows)
    reverse = np.column_stack([rows[:, 1], rows[:, 0], -rows[:, 2:]])
    np.testing.assert_array_equal(rows, np.array(sorted(reverse.tolist())))


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (np.zeros((3, 3)), (False, False, False)),
        (1.5 * CELL, (True, True, True)),
        (np.diag([1.0, 1.0, 0.0]) @ CELL, (True, True, False)),
    ],
)
def test_skin_list_equals_fresh_lists_along_a_walk(cell, pbc):
    rng = np.random.default_rng(9)
    positions = rng.uniform(0.0, 5.0, (12, 3))
    neighbors = NeighborList(4.0, skin=1.0)
    for _ in range(120):
        positions = positions + rng.normal(scale=0.03, size=positions.shape)
        for got, expected in zip(
            neighbors.update(positions, cell, pbc), neighbor_pairs(positions, cell, pbc, 4.0), strict=True
        ):
            np.testing.assert_array_equal(got, expected)
    assert 1 < neighbors.n_searches <= 20


def test_skin_list_follows_a_changing_cell():
    rng = np.random.default_rng(10)
    scaled = rng.random((6, 3))
    neighbors = NeighborList(4.0)
    for step in range(5):
        cell = CELL * (1 + 0.01 * step)
        got, expected = (
            neighbors.update(scaled @ cell, cell, (True,) * 3),
            neighbor_pairs(scaled @ cell, cell, (True,) * 3, 4.0),
        )
        np.testing.assert_array_equal(as_rows(*got), as_rows(*expected))
    assert neighbors.n_searches == 5


def test_skin_list_searches_when_it_must_and_only_then():
    positions = np.random.default_rng(11).random((5, 3)) @ CELL
    neighbors = NeighborList(3.0, skin=0.8)

    def searches(x, cell=CELL, pbc=(True, True, True)):
        before = neighbors.n_searches
        got = neighbors.update(x, cell, pbc)
        np.testing.assert_array_equal(as_rows(*got), as_rows(*neighbor_pairs(x, cell, pbc, 3.0)))
        return neighbors.n_searches - before

    assert searches(positions) == 1
    assert searches(positions) == 0
    moved = positions.copy()
    moved[2, 1] += 0.39
    assert searches(moved) == 0
    moved[2, 1] += 0.02
    assert searches(moved) == 1
    assert searches(moved, cell=CELL * 1.0001) == 1
    assert searches(moved, cell=CELL * 1.0001, pbc=(True, True, False)) == 1
    assert searches(moved[:4], cell=CELL * 1.0001, pbc=(True, True, False)) == 1
    assert searches(moved[:4], cell=CELL * 1.0001, pbc=(True, True, False)) == 0


def test_skin_list_follows_atoms_that_are_wrapped_into_the_cell():
    """Pairs stay, but not their cell shifts: with those of before a wrapped atom would be a cell away from its neighbours."""
    scaled = np.random.default_rng(13).random((5, 3))
    scaled[0, 0] = 1.01
    neighbors = NeighborList(3.0, skin=0.8)
    before = neighbors.update(scaled @ CELL, CELL, (True,) * 3)
    scaled[0, 0] -= 1.0
    after = neighbors.update(scaled @ CELL, CELL, (True,) * 3)
    np.testing.assert_array_equal(as_rows(*after), as_rows(*neighbor_pairs(scaled @ CELL, CELL, (True,) * 3, 3.0)))
    assert len(as_rows(*before)) == len(as_rows(*after)) > 0
    assert not np.array_equal(as_rows(*before), as_rows(*after))


def test_skin_list_does_not_trust_an_array_changed_in_place():
    positions = np.random.default_rng(12).random((5, 3)) @ CELL
    cell = CELL.copy()
    neighbors = NeighborList(3.0, skin=0.8)
    neighbors.update(positions, cell, (True,) * 3)
    positions[0] += 0.7
    cell[0, 0] += 0.3
    got = neighbors.update(positions, cell, (True,) * 3)
    assert neighbors.n_searches == 2
    np.testing.assert_array_equal(as_rows(*got), as_rows(*neighbor_pairs(positions, cell, (True,) * 3, 3.0)))


def test_zero_skin_searches_every_time():
    neighbors = NeighborList(3.0, skin=0.0)
    for _ in range(3):
        neighbors.update(np.zeros((1, 3)), CELL, (True,) * 3)
    assert neighbors.n_searches == 3
