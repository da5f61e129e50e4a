"""Free motions: what constraints let through, less what is rigid."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixCom, FixedLine, FixedPlane

from blipcalc.relaxation import coordinates
from blipcalc.relaxation.coordinates import free_motion, rigid_motions


def balanced(atoms, n=5, seed=0):
    """Gradients along no rigid motion."""
    rigid = rigid_motions(atoms)
    found = np.random.default_rng(seed).normal(size=(n, 3 * len(atoms)))
    return found - (found @ rigid) @ rigid.T


def wire():
    return Atoms("CH2", [[0, 0, 0.1], [0.9, 0.3, 0], [-0.8, 0.4, 0.2]], cell=[5, 5, 2.5], pbc=[False, False, True])


@pytest.mark.parametrize(
    ("atoms", "constraints", "size"),
    [
        (molecule("CH4"), [], 15 - 6),
        (molecule("CO2"), [], 9 - 5),  # a line has one rotation less
        (molecule("H2"), [], 1),
        (wire(), [], 9 - 3 - 1),
        (bulk("Cu", cubic=True), [], 12 - 3),
        (molecule("CH4"), [FixAtoms([0])], 12 - 3),  # it may turn about the atom that is held
        (molecule("CH4"), [FixAtoms([0, 1])], 9 - 1),
        (molecule("CH4"), [FixAtoms([0, 1, 2])], 6),
        (molecule("CH4"), [FixCom()], 12 - 3),
        (
            molecule("CH4"),
            [FixedPlane(0, (0, 0, 1)), FixedLine(1, (1, 0, 0))],
            12 - 3,
        ),  # three rigid motions respect both
        (molecule("CH4"), [FixCartesian(0, (True, True, True)), FixBondLengths([[1, 2]])], 11 - 3),
    ],
)
def test_degrees_of_freedom(atoms, constraints, size):
    atoms.set_constraint(constraints)
    free = free_motion(atoms, balanced(atoms))
    q = free.up(np.eye(size))
    assert q.shape == (size, 3 * len(atoms))
    assert np.allclose(q @ q.T, np.eye(size), atol=1e-9)
    assert free.linear == (not any(isinstance(c, FixBondLengths) for c in constraints))


def test_an_external_field_makes_rigid_motions_free():
    atoms = molecule("CH4")
    assert free_motion(atoms, np.ones((1, 15))).matrix.shape[1] == 9 + 1  # it pulls along one direction
    rng = np.random.default_rng(0)
    assert free_motion(atoms, rng.normal(size=(8, 15))).matrix.shape[1] == 15


@pytest.mark.parametrize("held", [[], [0], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("name", ["molecule", "crystal"])
def test_large_structures_have_the_same_free_motions_without_a_matrix(held, name, monkeypatch):
    atoms = molecule("CH3OH") if name == "molecule" else bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.set_constraint(FixAtoms(held))
    gradients = balanced(atoms)
    strain = np.eye(6)[:, :2] if name == "crystal" else None
    small = free_motion(atoms, gradients, strain)
    monkeypatch.setattr(coordinates, "MOST_ATOMS", 1)
    large = free_motion(atoms, gradients, strain)
    assert type(small) is not type(large)
    g = np.random.default_rng(1).normal(size=(4, 3 * len(atoms) + (6 if strain is not None else 0)))
    assert np.allclose(small.up(small.down(g)), large.up(large.down(g)), atol=1e-9)
    assert large.matrix.shape == small.matrix.shape
    assert large.size == small.size
    assert np.linalg.matrix_rank(np.hstack([small.matrix, large.matrix]), tol=1e-6) == small.matrix.shape[1]


def test_what_is_held_altogether_has_no_free_motion():
    atoms = molecule("H2O")
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    assert free_motion(atoms, balanced(atoms)).size == 0
    assert free_motion(Atoms("Ar"), np.zeros((2, 3))).size == 0
