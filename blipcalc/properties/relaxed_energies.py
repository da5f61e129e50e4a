"""Copies in the minimum of the surface that drives, and the energy of every draw in its own minimum next to it.

Energies are those of :mod:`blipcalc.relaxation.linear_response`.  What it subtracts is of second order: without it they are
exact at first order, for in its minimum the surface that drives has no slope.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from blipcalc.calculators.draw_surfaces import Surfaces, gradient
from blipcalc.errors import ConfigurationError, NotConvergedError
from blipcalc.relaxation.coordinates import free_motion
from blipcalc.relaxation.linear_response import Inverse, respond
from blipcalc.relaxation.relax import relax
from blipcalc.settings import whole


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

    second_order : subtract ½ gᵀ H̄⁻¹ g, which costs a Hessian for each structure

    raises : NotAMinimumError; ConfigurationError for constraints whose allowed displacements are curved
    """
    found = surfaces(structures, forces=second_order)
    value = np.array([both.driving.energy for both in found])
    draws = np.stack([both.draws.energy for both in found], axis=1)
    for s, (atoms, both) in enumerate(zip(structures, found, strict=True)):
        if second_order and len(atoms) > 1:  # an atom alone is where it is
            own, shared = gradient(both.draws, atoms), gradient(both.driving, atoms)
            free = free_motion(atoms, own, dense=True)
            if not free.linear:
                kinds = ", ".join(sorted({type(c).__name__ for c in atoms.constraints}))
                raise ConfigurationError(f"second_order=True takes constraints such as FixAtoms, got {kinds}")
            inverse = Inverse(surfaces.hessian(atoms).matrix(), free).of_minimum()
            value[s] -= respond(inverse, shared[None]).relaxation[0]
            draws[:, s] -= respond(inverse, own).relaxation
    return value, draws
