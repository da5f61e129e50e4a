"""Graphs: what they hold, how they batch, and what they refuse by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch_geometric.loader import DataLoader

from blipcalc.core.graph import Graph
from blipcalc.core.neighbors import NeighborList
from blipcalc.core.validate import check_distances, check_elements
from blipcalc.errors import (
    CoincidentAtomsError,
    EmptyStructureError,
    NonFiniteError,
    SingularCellError,
    StructureError,
    UnknownElementError,
)


def water(**changes) -> Atoms:
    atoms = molecule("H2O")
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def test_fields_have_the_shapes_and_types_of_their_contract():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    graph = Graph.from_atoms(atoms, 4.0)
    n_pairs = graph.num_edges
    expected = {
        "positions": ((2, 3), torch.float64),
        "species": ((2,), torch.int64),
        "cell": ((1, 3, 3), torch.float64),
        "pbc": ((1, 3), torch.bool),
        "edge_index": ((2, n_pairs), torch.int64),
        "shifts": ((n_pairs, 3), torch.int64),
        "batch": ((2,), torch.int64),
    }
    for name, (shape, dtype) in expected.items():
        assert tuple(graph[name].shape) == shape, name
        assert graph[name].dtype == dtype, name
    assert graph.n_structures == 1
    assert graph.n_atoms.tolist() == [2]
    assert graph.species.tolist() == [11, 17]
    distances = graph.edge_vectors().norm(dim=-1)
    assert (distances < 4.0).all()
    np.testing.assert_allclose(distances.min(), 2.8, rtol=1e-12)


def test_vectors_point_from_target_to_source():
    graph = Graph.from_atoms(Atoms("HO", positions=[[0, 0, 0], [1.0, 0, 0]]), 2.0)
    to_first = graph.edge_index[1] == 0
    assert graph.edge_vectors()[to_first].tolist() == [[1.0, 0.0, 0.0]]


def test_a_graph_does_not_share_memory_with_its_atoms():
    atoms = bulk("Cu", cubic=True)
    graph = Graph.from_atoms(atoms, 3.0)
    before = [graph.positions.clone(), graph.cell.clone(), graph.species.clone()]
    atoms.positions += 1.0
    atoms.cell[0, 0] = 9.0
    atoms.numbers[:] = 1
    assert all(torch.equal(a, b) for a, b in zip(before, (graph.positions, graph.cell, graph.species), strict=True))


@pytest.mark.parametrize("loader", [False, True])
def test_a_batch_is_its_structures_one_after_another(loader):
    structures = [bulk("Cu", cubic=True), molecule("H2O"), Atoms("He"), bulk("Si")]
    graphs = [Graph.from_atoms(atoms, 4.0) for atoms in structures]
    batch = next(iter(DataLoader(graphs, batch_size=4))) if loader else Graph.collate(graphs)
    assert batch.n_structures == 4
    assert batch.n_atoms.tolist() == [4, 3, 1, 2]
    assert batch.batch.tolist() == [0] * 4 + [1] * 3 + [2] + [3] * 2
    assert batch.cell.shape == (4, 3, 3)
    assert batch.pbc.tolist() == [a.pbc.tolist() for a in structures]
    torch.testing.assert_close(batch.edge_vectors(), torch.cat([g.edge_vectors() for g in graphs]), rtol=0, atol=0)
    offsets = np.cumsum([0, 4, 3, 1])
    joined = torch.cat([g.edge_index + int(n) for g, n in zip(graphs, offsets, strict=True)], dim=1)
    assert torch.equal(batch.edge_index, joined)


def test_tensors_take_the_dtype_of_the_model_and_keep_a_leaf():
    graph = Graph.from_atoms(molecule("H2O"), 4.0)
    assert graph.tensors(torch.float32).vectors.dtype == torch.float32
    leaf = graph.edge_vectors().requires_grad_()
    assert graph.tensors(torch.float32, leaf).vectors is leaf


def test_a_reused_list_gives_the_same_graph():
    atoms, neighbors = bulk("Cu", cubic=True).repeat(2), NeighborList(4.0)
    for _ in range(3):
        atoms.positions += np.random.default_rng(0).normal(scale=0.02, size=(len(atoms), 3))
        reused, fresh = Graph.from_atoms(atoms, 4.0, neighbors), Graph.from_atoms(atoms, 4.0)
        assert torch.equal(reused.edge_index, fresh.edge_index)
        assert torch.equal(reused.shifts, fresh.shifts)
    assert neighbors.n_searches == 1


@pytest.mark.parametrize(
    ("atoms", "error", "message"),
    [
        (Atoms(), EmptyStructureError, "at least one atom"),
        (water(positions=[[0, 0, 0], [0, 0, np.nan], [1, 0, 0]]), NonFiniteError, r"atoms \[1\]"),
        (water(positions=[[np.inf, 0, 0], [0, 0, 1], [-np.inf, 0, 0]]), NonFiniteError, r"atoms \[0, 2\]"),
        (water(cell=np.diag([5.0, np.nan, 5.0])), NonFiniteError, "cell is not finite"),
        (water(pbc=True), SingularCellError, "independent cell vectors"),
        (water(cell=[[4, 0, 0], [8, 0, 0], [0, 0, 4]], pbc=True), SingularCellError, "independent cell vectors"),
        (water(cell=[[4, 0, 0], [0, 0, 0], [0, 0, 4]], pbc=[True, True, False]), SingularCellError, "pbc="),
    ],
)
def test_refuses_by_name(atoms, error, message):
    with pytest.raises(error, match=message) as caught:
        Graph.from_atoms(atoms, 4.0)
    assert isinstance(caught.value, StructureError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "atoms",
    [
        water(),
        water(cell=[[4, 0, 0], [0, 0, 0], [0, 0, 4]], pbc=[True, False, True]),
        water(cell=[100.0, 100.0, 100.0], pbc=True),
        water(cell=[[4, 0, 0], [8, 0, 0], [0, 0, 4]]),
    ],
)
def test_accepts_cells_that_are_only_open_where_they_are_singular(atoms):
    assert Graph.from_atoms(atoms, 2.5).num_edges == 6


def graph_with_checked_distances(atoms: Atoms, cutoff: float) -> Graph:
    graph = Graph.from_atoms(atoms, cutoff)
    check_distances(graph.edge_vectors().numpy(), graph.edge_index.numpy())
    return graph


@pytest.mark.parametrize("gap", [0.0, 1e-9, 9e-4])
@pytest.mark.parametrize("periodic", [False, True])
def test_coincident_atoms_are_named(gap, periodic):
    atoms = Atoms("H3", positions=[[0, 0, 0], [2.0, 0, 0], [2.0, gap, 0]], cell=[6.0] * 3, pbc=periodic)
    with pytest.raises(CoincidentAtomsError, match="atoms 1 and 2"):
        graph_with_checked_distances(atoms, 4.0)


def test_coincident_images_are_named():
    atoms = Atoms("H2", scaled_positions=[[0, 0.5, 0.5], [1.0, 0.5, 0.5]], cell=[3.0] * 3, pbc=True)
    with pytest.raises(CoincidentAtomsError, match="atoms 0 and 1"):
        graph_with_checked_distances(atoms, 2.0)


def test_distances_of_a_structure_without_pairs_pass():
    assert graph_with_checked_distances(Atoms("He"), 4.0).num_edges == 0


def test_unknown_elements_are_named():
    check_elements(molecule("H2O").numbers, [1, 8])
    with pytest.raises(UnknownElementError, match="knows H, O, but the structure holds C, Cu"):
        check_elements(np.array([1, 29, 6, 6]), [8, 1])


def test_arrays_that_are_not_one_value_for_each_atom_are_named():
    atoms = Atoms("H2O", positions=[[0, 0, 0], [0, 0, 1], [0, 1, 0]])
    atoms.arrays["label"] = np.array(["a", None, 3], dtype=object)  # of no use in a file, and in nobody's way here
    Graph.from_atoms(atoms, 3.0)
    for name, value in (("tags", np.zeros((3, 3))), ("charge", np.zeros(2)), ("momenta", np.zeros((3, 2)))):
        broken = atoms.copy()
        broken.arrays[name] = value
        with pytest.raises(StructureError, match=name):
            Graph.from_atoms(broken, 3.0)
    atoms.numbers[0] = 500
    with pytest.raises(UnknownElementError, match="from 0 to 118"):
        Graph.from_atoms(atoms, 3.0)
