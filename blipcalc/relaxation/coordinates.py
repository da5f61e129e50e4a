"""Which motions of a structure are free: those that constraints allow, less rigid ones that cost no energy.

Coordinates are q = (u, e) of :mod:`blipcalc.core.curvature`; a basis of the free ones is found from what constraints do with a
small displacement, so that any linear constraint of ASE serves.  A translation, or a rotation of what is not periodic, is
taken out where constraints leave it free.
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

#: atoms beyond which no matrix of all coordinates is built
MOST_ATOMS = 300
#: constraints whose allowed displacements are a linear space, the same everywhere
LINEAR = (FixAtoms, FixCartesian, FixCom, FixSubsetCom, FixedLine, FixedPlane, FixScaled, FixSymmetry)
#: below this ratio of radii of gyration an axis is that of a linear molecule: one bent by 0.01 Å is still linear
LINE = 1e-2
#: Å of a displacement that constraints are shown; singular values below the second are directions that are not free
SHOWN, FREE = 1e-4, 1e-3
#: of a rigid motion: how much of it constraints may take away, and how much of all forces may lie along it, at least in eV/Å
RIGID, PULLED, NOTHING = 1e-6, 1e-4, 1e-6


class FreeMotion(Protocol):
    """The free motions of a structure of n atoms, with coordinates y of their own.

    length : Å, by which a strain is a displacement: the cube root of the volume
    linear : whether the allowed displacements are the same everywhere; not for fixed bond lengths, say
    strain : whether q has coordinates of strain, m = 3n + 6, or not, m = 3n
    """

    @property
    def length(self) -> float:
        """Å."""
        ...

    @property
    def linear(self) -> bool:
        """The same everywhere."""
        ...

    @property
    def strain(self) -> bool:
        """With coordinates of it."""
        ...

    @property
    def size(self) -> int:
        """How many free motions there are."""
        ...

    @property
    def matrix(self) -> np.ndarray:
        """(m, f) a basis; heavy for a large structure."""
        ...

    def down(self, gradients: np.ndarray) -> np.ndarray:
        """(…, m) derivatives with respect to q -> (…, f) with respect to y."""
        ...

    def up(self, y: np.ndarray) -> np.ndarray:
        """(…, f) -> (…, m) q."""
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
    """The same without a matrix, for large structures of which atoms are held or not: y is q less what is not free.

    moves : (3n,) 1 where an atom is not held, else 0; rigid : (3n, r) rigid motions that are taken out; strains : (6, s)
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
    """The free motions of a structure.

    Parameters
    ----------
    atoms : with its constraints
    gradients : (K, 3n) eV/Å of some surfaces: a rigid motion along which one of them pulls, as an external field does, is free
        like any other
    strain : (6, s) strains in Voigt order that the cell may take, shears twice ε; None for a fixed cell
    atoms_move : False where atoms follow the cell alone
    dense : with a matrix, whatever the size, for who inverts a Hessian
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
    """Those combinations of rigid motions of which constraints take nothing away."""
    _, s, vt = np.linalg.svd(taken.T @ taken)
    return rigid @ vt[s < RIGID].T


def allowed_displacements(atoms: Atoms) -> np.ndarray:
    """(3n, f) an orthonormal basis of what constraints let through of small displacements; the identity without any."""
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
    """(3n, r) orthonormal translations, and rotations about the centre as far as the structure is not periodic.

    Along one periodic axis there is the rotation about it; with two or three there is none, nor about the axis of a linear
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
    """Those combinations of rigid motions along which no surface pulls."""
    along = gradients @ rigid
    _, s, vt = np.linalg.svd(along)
    pulled = int((s > max(PULLED * np.linalg.norm(gradients), NOTHING)).sum())
    return rigid @ vt[pulled:].T


def _allowed_strains(atoms: Atoms, strain: np.ndarray) -> np.ndarray:
    """Those that symmetry, where it is fixed, leaves of the strains asked for."""
    found, halves = np.array(strain, dtype=float), np.array([1, 1, 1, 0.5, 0.5, 0.5])
    for constraint in atoms.constraints:
        if isinstance(constraint, FixSymmetry):
            for k in range(found.shape[1]):
                tensor = found[:, k] * halves
                constraint.adjust_stress(atoms, tensor)  # of any symmetric tensor the part with the symmetry
                found[:, k] = tensor / halves
    return found


def _range(columns: np.ndarray, least: float) -> np.ndarray:
    """An orthonormal basis of the space that columns span; singular values below ``least`` do not count."""
    if not columns.shape[1]:
        return columns
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, s > least]
