"""Energies in the minimum of every draw, from one relaxation on the surface that drives.

    E_k(x_k) = E_k(x̄) - ½ g_kᵀ H̄⁺ g_k + O(δ³),   g_k = ∂E_k/∂x at x̄

| symbol | variable | meaning |
|---|---|---|
| x̄, x_k | | minima of the surface that drives and of draw k, whose difference is O(δ) |
| δ | | by how much a draw differs from the surface that drives |
| H̄⁺ | ``inverse`` | inverse Hessian of the surface that drives, within the motions that are allowed |

The second term is O(δ²): without it the energy is exact at first order, for at x̄ the surface that drives has no slope.  The
Hessian of the surface that drives is taken on purpose: those of single draws may have eigenvalues near zero.

Source: implicit function theorem, as in Maliyov, Grigorev, Swinburne, arXiv 2407.02414 (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from blipcalc.errors import ConfigurationError, NotAMinimumError, NotConvergedError
from blipcalc.settings import number, whole
from blipcalc.surfaces import Both, Surfaces

#: eigenvalues of a minimum, as a fraction of the largest, are above it
FLAT = 1e-6

Cell = Literal["fixed", "shape", "free"]


def relax(surfaces: Surfaces, atoms: Atoms, *, cell: Cell = "fixed", fmax: float = 0.01, steps: int = 500) -> Atoms:
    """A copy in the minimum of the surface that drives, with that calculator and the constraints of the structure.

    cell : what of it moves along: nothing, its shape at fixed volume, or all
    fmax : eV/Å, as ASE's optimisers mean it
    steps : at most

    raises : NotConvergedError
    """
    fmax, steps = number("fmax", fmax, above=0.0), whole("steps", steps, 0, what="number of steps")
    moved = atoms.copy()
    moved.calc = surfaces.calculator
    moving = moved if cell == "fixed" else FrechetCellFilter(moved, constant_volume=cell == "shape")
    optimizer = BFGS(moving, logfile=None)
    if not optimizer.run(fmax=fmax, steps=steps):
        largest = np.linalg.norm(moving.get_forces(), axis=1).max()
        raise NotConvergedError(
            f"expected forces below {fmax:g} eV/Å within {steps} steps, {atoms.get_chemical_formula()} still has "
            f"{largest:.3g}; give more steps, a larger fmax, or a better start"
        )
    return moved


def relaxed_energies(
    surfaces: Surfaces, structures: Sequence[Atoms], *, second_order: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(S,) on the surface that drives and (K, S) eV of the draws, at structures that are minima of the former.

    second_order : subtract ½ gᵀ H̄⁺ g, which costs a Hessian for each structure

    raises : NotAMinimumError, ConfigurationError as for :func:`inverse_hessian`
    """
    found = surfaces(structures, forces=second_order)
    value = np.array([both.driving.energy for both in found])
    draws = np.stack([both.draws.energy for both in found], axis=1)
    if second_order:
        for s, (atoms, both) in enumerate(zip(structures, found, strict=True)):
            inverse = inverse_hessian(surfaces.hessian(atoms).matrix(), allowed_motions(atoms))
            shared, own = _gradients(both)
            value[s] -= 0.5 * shared @ inverse @ shared
            draws[:, s] -= 0.5 * np.einsum("ki,ij,kj->k", own, inverse, own)
    return value, draws


def _gradients(both: Both) -> tuple[np.ndarray, np.ndarray]:
    """(3n,) and (K, 3n) eV/Å."""
    return -both.driving.forces.ravel(), -both.draws.forces.reshape(len(both.draws.forces), -1)


def inverse_hessian(matrix: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """(m, m) inverse within a space of motions, zero outside of it.

    matrix : (m, m) Hessian; basis : (m, b) orthonormal columns

    raises : NotAMinimumError for an eigenvalue that is not positive
    """
    if not basis.shape[1]:
        return np.zeros_like(matrix)
    values, vectors = np.linalg.eigh(basis.T @ matrix @ basis)
    if values[0] <= FLAT * np.abs(values).max():
        raise NotAMinimumError(
            f"expected a minimum of the surface that drives, its lowest curvature is {values[0]:.3g} (highest "
            f"{values[-1]:.3g}); displace the structure along the soft mode and relax it again, or take second_order=False "
            "where that is a setting"
        )
    vectors = basis @ vectors
    return vectors / values @ vectors.T


def allowed_motions(atoms: Atoms) -> np.ndarray:
    """(3n, b) orthonormal displacements: those of free atoms, or of all but translations and, of molecules, rotations.

    raises : ConfigurationError for constraints other than FixAtoms
    """
    n, unit = len(atoms), np.eye(3 * len(atoms))
    if atoms.constraints:
        others = sorted({type(c).__name__ for c in atoms.constraints if not isinstance(c, FixAtoms)})
        if others:
            raise ConfigurationError(f"expected constraints of the kind FixAtoms alone, got {', '.join(others)}")
        free = np.setdiff1d(np.arange(n), np.concatenate([c.index for c in atoms.constraints]))
        return unit.reshape(3 * n, n, 3)[:, free].reshape(3 * n, -1)
    rigid = [np.tile(axis, n) for axis in np.eye(3)]
    if not atoms.pbc.any():
        centred = atoms.positions - atoms.positions.mean(axis=0)
        rigid += [np.cross(axis, centred).ravel() for axis in np.eye(3)]
    left, lengths, _ = np.linalg.svd(np.array(rigid).T, full_matrices=True)
    return left[:, int((lengths > 1e-6 * lengths[0]).sum()) :]
