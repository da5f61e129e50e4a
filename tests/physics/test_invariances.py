"""Energies, forces and their variances under the symmetries that they must have, in all eight patterns of periodicity.

A random element of the group acts on a random structure: a permutation, a rotation or reflection, a translation, and cell vectors
added to single atoms along periodic directions.  E and Var E stay, forces and covariances Σ turn with the structure.  Of n
copies of a cell, energies and their standard deviations are n times as large, since the surfaces of frozen draws are.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms

from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.predictor import BayesianPredictor

PATTERNS = list(itertools.product([False, True], repeat=3))
#: relative to the largest of a structure
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}


def structure(rng, pbc):
    """Two to six atoms in a triclinic cell, mostly smaller than the cutoff; the closest are 0.8 to 3 Å apart."""
    while True:
        cell = np.diag(rng.uniform(2.5, 5.0, 3)) + rng.uniform(-0.7, 0.7, (3, 3))
        n = int(rng.integers(2, 7))
        atoms = Atoms(rng.choice([1, 7], n), scaled_positions=rng.random((n, 3)), cell=cell, pbc=pbc)
        around = atoms.repeat([3 if axis else 1 for axis in pbc])
        if 0.8 < (around.get_all_distances() + 9 * np.eye(len(around))).min() < 3.0:
            return atoms


def acted_on(atoms, rng):
    """The structure after a random group element, its permutation, and its rotation or reflection."""
    order, turn = rng.permutation(len(atoms)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = atoms[order]
    moved.positions += (rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
    moved.positions = moved.positions @ turn.T + rng.normal(0, 3, 3)
    moved.set_cell(atoms.cell.array @ turn.T)
    return moved, order, turn


@pytest.fixture(scope="module")
def predictor(make_blip):
    """(backbone, dtype) -> four draws of a small BLIP."""

    def make(backbone="painn", dtype="float64"):
        model = make_blip(backbone)
        return BayesianPredictor(model, BlipPosterior(model.slot_shapes()), n_draws=4, dtype=dtype)

    return make


def far(found, expected):
    """Largest difference in units of the largest value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def worst(pairs):
    """{quantity: largest relative difference} of [{quantity: (found, expected)}].

    Relative to the largest value of a structure, or to a tenth of what is usual, since forces may vanish by symmetry.
    """
    found = {}
    for name in pairs[0]:
        differences = np.array([np.abs(b - a).max() for b, a in (pair[name] for pair in pairs)])
        sizes = np.array([np.abs(pair[name][1]).max() for pair in pairs])
        found[name] = float((differences / np.maximum(sizes, 0.1 * sizes.mean())).max())
    return found


def under_the_group(predictor, pbc, n, rng):
    """{quantity: largest relative difference} in n structures."""
    before = [structure(rng, pbc) for _ in range(n)]
    after = [acted_on(atoms, rng) for atoms in before]
    predictions = zip(predictor(before), predictor([moved for moved, *_ in after]), after, strict=True)
    return worst(
        [
            {
                "energy": (b.energy, a.energy),
                "Var E": (b.energy_var, a.energy_var),
                "forces": (b.forces, a.forces[order] @ turn.T),
                "covariances": (b.forces_cov, turn @ a.forces_cov[order] @ turn.T),
            }
            for a, b, (_, order, turn) in predictions
        ]
    )


def of_copies(predictor, pbc, n, rng):
    """The same for cells laid side by side, two or three along each periodic direction."""
    before = [structure(rng, pbc) for _ in range(n)]
    times = [[int(rng.integers(2, 4)) if axis else 1 for axis in pbc] for _ in before]
    after = predictor([atoms.repeat(t) for atoms, t in zip(before, times, strict=True)])
    return worst(
        [
            {
                "energy": (b.energy, copies * a.energy),
                "sd of E": (np.sqrt(b.energy_var), copies * np.sqrt(a.energy_var)),
                "forces": (b.forces, np.tile(a.forces, (copies, 1))),
                "covariances": (b.forces_cov, np.tile(a.forces_cov, (copies, 1, 1))),
            }
            for a, b, copies in zip(predictor(before), after, np.prod(times, axis=1), strict=True)
        ]
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("pbc", PATTERNS)
def test_a_few_structures_in_each_pattern(predictor, pbc, dtype):
    assert max(under_the_group(predictor(dtype=dtype), pbc, 3, np.random.default_rng(0)).values()) < TOLERANCE[dtype]


@pytest.mark.parametrize("pbc", [(True, False, False), (True, True, True)])
def test_copies_of_a_cell(predictor, pbc):
    assert max(of_copies(predictor(), pbc, 2, np.random.default_rng(1)).values()) < TOLERANCE["float64"]


def test_control_what_is_no_symmetry_is_seen(predictor):
    """A rotation of the atoms without their cell; a covariance that is not turned; variances added over copies."""
    rng, whole = np.random.default_rng(2), predictor()
    atoms = structure(rng, (True, True, True))
    moved, order, turn = acted_on(atoms, rng)
    a, b = whole([atoms, moved])
    assert far(b.forces_cov, a.forces_cov[order]) > 1e-3
    moved.set_cell(atoms.cell.array)
    assert far(whole([moved])[0].forces, a.forces[order] @ turn.T) > 1e-3
    (double,) = whole([atoms.repeat([2, 1, 1])])
    assert far(double.energy_var, 2 * a.energy_var) > 0.9


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("pbc", PATTERNS)
@pytest.mark.parametrize("backbone", ["painn", "schnet", "visnet"])
def test_a_hundred_structures_in_each_pattern(predictor, backbone, pbc, dtype):
    made, rng = predictor(backbone, dtype), np.random.default_rng(3)
    assert max(under_the_group(made, pbc, 100, rng).values()) < TOLERANCE[dtype]
    if any(pbc):
        assert max(of_copies(made, pbc, 10, rng).values()) < TOLERANCE[dtype]
