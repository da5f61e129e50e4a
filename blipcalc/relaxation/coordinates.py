"""Find the free motions of a structure: those that constraints allow, without rigid ones that cost no energy.

Coordinates are q = (u, e) of :mod:`blipcalc.core.curvature`; a basis of the free ones is found from the effect of constraints on
small displacements, so that any linear constraint of ASE can be used.  Translations, and rotations of a structure that is not
periodic, are removed unless constraints block them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.constraints import (
    FixAtoms,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixScaled,
    FixSubsetCom,
    FixSymmetry,
)
from scipy.linalg import block_diag

#: most atoms for which a matrix of all coordinates is built
MOST_ATOMS = 300
#: constraints whose allowed displacements are a linear space, the same everywhere
LINEAR = (FixAtoms, FixCartesian, FixCom, FixSubsetCom, FixedLine, FixedPlane, FixScaled, FixSymmetry)
#: ratio of radii of gyration below which a molecule is linear: one bent by 0.01 Å still is
LINE = 1e-2
#: Å, displacement for probing constraints; least singular value of a free direction
SHOWN, FREE = 1e-4, 1e-3
#: of a rigid motion: largest part removed by constraints; largest share of forces along it, and the least such force in eV/Å
RIGID, PULLED, NOTHING = 1e-6, 1e-4, 1e-6


class FreeMotion(Protocol):
    """Interface of the free motions of a structure of n atoms, with coordinates y.

    length : Å, factor from strain to displacement: the cube root of the volume
    linear : whether the allowed displacements do not depend on positions; False for fixed bond lengths, for example
    strain : whether q includes strains, m = 3n + 6, or not, m = 3n
    """

    @property
    def length(self) -> float:
        """Return the factor from strain to displacement, Å."""
        ...

    @property
    def linear(self) -> bool:
        """Return whether the allowed displacements do not depend on positions."""
        ...

    @property
    def strain(self) -> bool:
        """Return whether q includes strains."""
        ...

    @property
    def size(self) -> int:
        """Return the number f of free motions."""
        ...

    @property
    def matrix(self) -> np.ndarray:
        """Return a basis (m, f), which is large for a large structure."""
        ...

    def down(self, gradients: np.ndarray) -> np.ndarray:
        """Return derivatives (…, f) with respect to y from those (…, m) with respect to q."""
        ...

    def up(self, y: np.ndarray) -> np.ndarray:
        """Return q (…, m) from y (…, f)."""
        ...


@dataclass(frozen=True)
class Basis:
    """Free motions as the columns (m, f) of a matrix, orthonormal in lengths."""

    matrix: np.ndarray

    length: float
    linear: bool
    strain: bool

    @property
    def size(self) -> int:
        """See :class:`FreeMotion`."""
        return self.matrix.shape[1]

    def down(self, gradients: np.ndarray) -> np.ndarray:
        """See :class:`FreeMotion`."""
        return gradients @ self.matrix

    def up(self, y: np.ndarray) -> np.ndarray:
        """See :class:`FreeMotion`."""
        return y @ self.matrix.T


@dataclass(frozen=True)
class Projection:
    """Free motions as a projection, for large structures with only FixAtoms: y is q without its fixed parts.

    moves : (3n,) 1 for atoms that are not fixed, else 0; rigid : (3n, r) rigid motions that are removed; strains : (6, s)
    """

    moves: np.ndarray
    rigid: np.ndarray
    strains: np.ndarray
    length: float
    strain: bool
    linear: bool = True

    @property
    def size(self) -> int:
        """See :class:`FreeMotion`."""
        return int(self.moves.sum()) - self.rigid.shape[1] + self.strains.shape[1]

    @property
    def matrix(self) -> np.ndarray:
        """See :class:`FreeMotion`."""
        size = len(self.moves) + (self.strains.shape[1] if self.strain else 0)
        return _range(self.up(np.eye(size)).T, FREE / self.length)

    def down(self, gradients: np.ndarray) -> np.ndarray:
        """See :class:`FreeMotion`."""
        n = len(self.moves)
        u = gradients[..., :n] * self.moves
        u = u - (u @ self.rigid) @ self.rigid.T
        return np.concatenate([u, gradients[..., n:] @ self.strains], axis=-1) if self.strain else u

    def up(self, y: np.ndarray) -> np.ndarray:
        """See :class:`FreeMotion`."""
        n = len(self.moves)
        u = y[..., :n] * self.moves
        u = u - (u @ self.rigid) @ self.rigid.T
        return np.concatenate([u, y[..., n:] @ self.strains.T], axis=-1) if self.strain else u


def free_motion(
    atoms: Atoms,
    gradients: np.ndarray,
    strain: np.ndarray | None = None,
    *,
    atoms_move: bool = True,
    dense: bool = False,
) -> FreeMotion:
    """Return the free motions of a structure.

    Parameters
    ----------
    atoms : with its constraints
    gradients : (K, 3n) eV/Å of K potentials: a rigid motion with a force along it, as in an external field, is kept as free
    strain : (6, s) allowed strains in Voigt order, shears twice ε; None for a fixed cell
    atoms_move : False if atoms only follow the cell
    dense : with a matrix for any size, as needed to invert a Hessian
    """
    rigid = _without_force(rigid_motions(atoms), gradients)
    length = 1.0 if strain is None else atoms.get_volume() ** (1 / 3)
    strains = np.zeros((6, 0)) if strain is None else _range(_allowed_strains(atoms, strain), FREE) / length
    projected = len(atoms) > MOST_ATOMS and atoms_move and not dense
    if projected and all(isinstance(held, FixAtoms) for held in atoms.constraints):
        moves = np.ones((len(atoms), 3))
        for held in atoms.constraints:
            moves[held.index] = 0.0
        flat = moves.ravel()
        left = _left_alone(rigid, rigid * (1 - flat)[:, None])
        return Projection(flat, left, strains, length, strain is not None)
    allowed = allowed_displacements(atoms) if atoms_move else np.zeros((3 * len(atoms), 0))
    if allowed.shape[1]:
        rigid = _left_alone(rigid, rigid - allowed @ (allowed.T @ rigid))
        allowed = _range(allowed - rigid @ (rigid.T @ allowed), FREE)
    matrix = allowed if strain is None else block_diag(allowed, strains)
    linear = all(isinstance(constraint, LINEAR) for constraint in atoms.constraints)
    return Basis(matrix, length, linear, strain is not None)


def _left_alone(rigid: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Return the combinations of rigid motions that constraints leave unchanged."""
    _, s, vt = np.linalg.svd(taken.T @ taken)
    return rigid @ vt[s < RIGID].T


def allowed_displacements(atoms: Atoms) -> np.ndarray:
    """Return an orthonormal basis (3n, f) of the small displacements that constraints allow; the identity without any."""
    size = 3 * len(atoms)
    if not atoms.constraints:
        return np.eye(size)
    here, columns = atoms.get_positions(), np.empty((size, size))
    for k in range(size):
        there = here.copy()
        there.reshape(-1)[k] += SHOWN
        for constraint in atoms.constraints:
            constraint.adjust_positions(atoms, there)
        columns[:, k] = (there - here).ravel() / SHOWN
    return _range(columns, FREE)


def rigid_motions(atoms: Atoms) -> np.ndarray:
    """Return orthonormal translations and rotations (3n, r); rotations only as far as the structure is not periodic.

    With one periodic axis there is the rotation about it; with two or three there is none, nor about the axis of a linear
    molecule.
    """
    centred = atoms.positions - atoms.positions.mean(axis=0)
    if atoms.pbc.sum() > 1:
        axes = np.zeros((0, 3))
    elif atoms.pbc.any():
        axes = atoms.cell.array[atoms.pbc]
    else:
        axes = np.linalg.eigh(centred.T @ centred)[1].T
    turns = [np.cross(axis / np.linalg.norm(axis), centred).ravel() for axis in axes]
    widest = max(1e-9, float(np.linalg.norm(centred)))
    columns = [np.tile(axis, len(atoms)) for axis in np.eye(3)]
    columns += [turn / widest for turn in turns if np.linalg.norm(turn) > LINE * widest]
    return _range(np.array(columns).T, 0.0)


def _without_force(rigid: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return the combinations of rigid motions without a force along them."""
    along = gradients @ rigid
    _, s, vt = np.linalg.svd(along)
    pulled = int((s > max(PULLED * np.linalg.norm(gradients), NOTHING)).sum())
    return rigid @ vt[pulled:].T


def _allowed_strains(atoms: Atoms, strain: np.ndarray) -> np.ndarray:
    """Return the symmetric part of the strains if symmetry is fixed, else all of them."""
    found, halves = np.array(strain, dtype=float), np.array([1, 1, 1, 0.5, 0.5, 0.5])
    for constraint in atoms.constraints:
        if isinstance(constraint, FixSymmetry):
            for k in range(found.shape[1]):
                tensor = found[:, k] * halves
                constraint.adjust_stress(atoms, tensor)  # projects any symmetric tensor onto the crystal's symmetry
                found[:, k] = tensor / halves
    return found


def _range(columns: np.ndarray, least: float) -> np.ndarray:
    """Return an orthonormal basis of the span of the columns, without singular values of ``least`` or below."""
    if not columns.shape[1]:
        return columns
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, s > least]
