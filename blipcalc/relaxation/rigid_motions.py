"""Find the coordinates that vibrate: the free ones without the rigid motions that cost no energy.

    T_a = e_a on every atom,   R_a = e_a × (r_i - c),   those of them that move no fixed coordinate

| symbol | variable | meaning |
|---|---|---|
| e_a | | three axes; of R_a the principal axes of inertia |
| r_i, c | ``positions``, ``centre`` | atoms and their centre of mass, Å |

A molecule has six, a linear one five, a crystal three, a chain with one periodic direction four; a molecule with one atom fixed
rotates about that atom.  The case is detected, not a setting (Wilson, Decius, Cross 1955, chapter 2).
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixCom

from blipcalc.errors import ConfigurationError
from blipcalc.relaxation.coordinates import rigid_motions

#: largest curvature of rigid motions relative to the largest of all, from rounding and remaining forces
RIGID = 1e-2


def free_coordinates(atoms: Atoms) -> np.ndarray:
    """Return whether each coordinate (3n,) is free; raises ConfigurationError for constraints on several coordinates at once."""
    free = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            free[constraint.index] &= ~np.asarray(constraint.mask, dtype=bool)
        elif not isinstance(constraint, FixCom):
            raise ConfigurationError(
                f"a harmonic analysis knows FixAtoms, FixCartesian and FixCom, got {type(constraint).__name__}; take it off"
            )
    if not free.any():
        raise ConfigurationError(f"all {len(atoms)} atoms are fixed: nothing vibrates; free some of them")
    return free.ravel()


def rigid_motions_of(atoms: Atoms, free: np.ndarray) -> np.ndarray:
    """Return the motions (m, r) of the m free coordinates that change no distance; not orthogonal, r from 0 to 6."""
    motions = rigid_motions(atoms)
    held = motions[~free]
    if len(held):
        _, size, rows = np.linalg.svd(held)
        motions = motions @ rows[int((size > 1e-3 * np.abs(motions).max()).sum()) :].T
    return motions[free]


def complement(motions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return an orthonormal basis (m, m - r) orthogonal to the motions, each coordinate times its weight √m."""
    weighted = motions if weights is None else motions * weights[:, None]
    return np.linalg.qr(weighted, mode="complete")[0][:, weighted.shape[1] :]


def symmetric(matrices: np.ndarray) -> np.ndarray:
    """Return the symmetric part of matrices (…, m, m), as differences leave them slightly asymmetric."""
    return 0.5 * (matrices + matrices.swapaxes(-1, -2))


def check_rigid(hessian: np.ndarray, motions: np.ndarray) -> None:
    """Raise ConfigurationError for rigid motions (m, r) that have a curvature, or that leave no vibration."""
    if motions.shape[1] == len(hessian):
        raise ConfigurationError("nothing vibrates: all free coordinates are translations and rotations")
    if motions.shape[1]:
        along = np.abs(hessian @ np.linalg.qr(motions)[0]).max()
        if along > RIGID * np.abs(hessian).max():
            raise ConfigurationError(
                f"expected no curvature along translations and rotations, got {along:.3g} eV/Å²: the potential is fixed in "
                "space; pass project=False"
            )
