"""Which motions of a structure are free: those that constraints allow, less rigid ones that cost no energy.

Coordinates are q = (u, e) of :mod:`blipcalc.core.curvature`; a basis of the free ones is found from what constraints do with a
small displacement, so that any linear constraint of ASE serves.  A translation, or a rotation of what is not periodic, is
taken out where constraints leave it free.
"""

from __future__ import annotations

from dataclasses import dataclass

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

from blipcalc.errors import ConfigurationError

#: constraints whose allowed displacements are a linear space, the same everywhere
LINEAR = (FixAtoms, FixCartesian, FixCom, FixSubsetCom, FixedLine, FixedPlane, FixScaled, FixSymmetry)
#: Å of a displacement that constraints are shown; singular values below the second are directions that are not free
SHOWN, FREE = 1e-4, 1e-3
#: of a rigid motion: how much of it constraints may take away, and how much of all forces may lie along it, at least in eV/Å
RIGID, PULLED, NOTHING = 1e-6, 1e-4, 1e-6


@dataclass(frozen=True)
class FreeMotion:
    """A basis of the free motions of a structure of n atoms.

    basis : (m, f), m = 3n or 3n + 6; columns are orthonormal in lengths, strains measured by ``length``
    length : Å, by which a strain is a displacement; the cube root of the volume
    linear : whether the allowed displacements are the same everywhere; not for fixed bond lengths, say
    strain : whether coordinates of strain are among the m
    """

    basis: np.ndarray
    length: float
    linear: bool
    strain: bool


def free_motion(
    atoms: Atoms, gradients: np.ndarray, strain: np.ndarray | None = None, *, atoms_move: bool = True
) -> FreeMotion:
    """The free motions of a structure.

    Parameters
    ----------
    atoms : with its constraints
    gradients : (K, 3n) eV/Å of some surfaces: a rigid motion along which one of them pulls, as an external field does, is free
        like any other
    strain : (6, s) strains in Voigt order that the cell may take, shears twice ε; None for a fixed cell
    atoms_move : False where atoms follow the cell alone

    Raises
    ------
    ConfigurationError : nothing can move
    """
    n = len(atoms)
    allowed = allowed_displacements(atoms) if atoms_move else np.zeros((3 * n, 0))
    rigid = _without_force(rigid_motions(atoms), gradients)
    if allowed.shape[1]:
        outside = rigid - allowed @ (allowed.T @ rigid)
        _, s, vt = np.linalg.svd(outside.T @ outside)
        kept = rigid @ vt[s < RIGID].T  # combinations that constraints leave alone
        allowed = _range(allowed - kept @ (kept.T @ allowed), FREE)
    length = atoms.get_volume() ** (1 / 3) if strain is not None else 1.0
    blocks = [np.vstack([allowed, np.zeros((6 if strain is not None else 0, allowed.shape[1]))])]
    if strain is not None:
        own = _range(_allowed_strains(atoms, strain), FREE) / length
        blocks.append(np.vstack([np.zeros((3 * n, own.shape[1])), own]))
    basis = np.hstack(blocks)
    if not basis.shape[1]:
        raise ConfigurationError(f"nothing can move: the constraints of {atoms.get_chemical_formula()} hold all atoms")
    linear = all(isinstance(constraint, LINEAR) for constraint in atoms.constraints)
    return FreeMotion(basis, length, linear, strain is not None)


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

    Along one periodic axis there is the rotation about it; with two or three there is none.
    """
    centred = atoms.positions - atoms.positions.mean(axis=0)
    columns = [np.tile(axis, (len(atoms), 1)).ravel() for axis in np.eye(3)]
    periodic = np.flatnonzero(atoms.pbc)
    axes = {0: np.eye(3), 1: atoms.cell.array[periodic[:1]]}.get(len(periodic), np.zeros((0, 3)))
    columns += [np.cross(axis / np.linalg.norm(axis), centred).ravel() for axis in axes]
    return _range(np.array(columns).T, 1e-4)  # of atoms on a line one rotation is none


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
