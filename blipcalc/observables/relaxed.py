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

import numpy as np
from ase import Atoms

from blipcalc.errors import ConfigurationError, NotAMinimumError, NotConvergedError
from blipcalc.relaxation.coordinates import free_motion
from blipcalc.relaxation.relax import relax
from blipcalc.settings import whole
from blipcalc.surfaces import Surfaces, gradient

#: eigenvalues of a minimum, as a fraction of the largest, are above it
FLAT = 1e-6


def relaxed_copy(
    surfaces: Surfaces, atoms: Atoms, *, cell: bool | str = False, fmax: float = 0.01, steps: int = 500
) -> Atoms:
    """A copy in the minimum of the surface that drives, with its calculator and the constraints of the structure.

    cell : what of it moves along: False for nothing, ``"shape"`` at fixed volume, True for all
    fmax : eV/Å, as ASE's optimisers mean it; steps : at most

    raises : NotConvergedError
    """
    moved = atoms.copy()
    moved.calc = surfaces.calculator
    descent = relax(moved, fmax=fmax, z=0.0, steps=whole("steps", steps, 0), cell=cell, error_bars=None).descent
    if not descent.done:
        raise NotConvergedError(
            f"{atoms.get_chemical_formula()} was not relaxed: {descent.reason}; give more steps, a larger fmax, or a better start"
        )
    return moved


def relaxed_energies(
    surfaces: Surfaces, structures: Sequence[Atoms], *, second_order: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(S,) on the surface that drives and (K, S) eV of the draws, at structures that are minima of the former.

    second_order : subtract ½ gᵀ H̄⁺ g, which costs a Hessian for each structure

    raises : NotAMinimumError; ConfigurationError for constraints whose allowed displacements are curved
    """
    found = surfaces(structures, forces=second_order)
    value = np.array([both.driving.energy for both in found])
    draws = np.stack([both.draws.energy for both in found], axis=1)
    for s, (atoms, both) in enumerate(zip(structures, found, strict=True)):
        if second_order and len(atoms) > 1:  # an atom alone is where it is
            own, shared = gradient(both.draws, atoms), gradient(both.driving, atoms)
            free = free_motion(atoms, own)
            if not free.linear:
                kinds = ", ".join(sorted({type(c).__name__ for c in atoms.constraints}))
                raise ConfigurationError(f"second_order=True takes constraints such as FixAtoms, got {kinds}")
            inverse = inverse_hessian(surfaces.hessian(atoms).matrix(), free.matrix)
            value[s] -= 0.5 * shared @ inverse @ shared
            draws[:, s] -= 0.5 * np.einsum("ki,ij,kj->k", own, inverse, own)
    return value, draws


def inverse_hessian(matrix: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """(m, m) inverse within a space of motions, zero outside of it.

    matrix : (m, m) Hessian; basis : (m, b) independent columns, or none

    raises : NotAMinimumError for an eigenvalue that is not positive
    """
    if not basis.shape[1]:
        return np.zeros_like(matrix)
    values, vectors = np.linalg.eigh(basis.T @ matrix @ basis)
    if values[0] <= FLAT * np.abs(values).max():
        raise NotAMinimumError(
            f"expected a minimum of the surface that drives, its lowest curvature is {values[0]:.3g} (highest "
            f"{values[-1]:.3g}); displace the structure along the soft mode and relax it again, or do without its "
            "curvature (second_order=False) where that is a setting"
        )
    vectors = basis @ vectors
    return vectors / values @ vectors.T
