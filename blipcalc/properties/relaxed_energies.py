"""Relax copies on the driving potential, and compute the energy of every draw in its per-draw minimum nearby.

Energies are those of :mod:`blipcalc.relaxation.linear_response`.  Its correction is of second order: without it energies are
exact at first order, since the driving potential is stationary at its minimum.
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
    """Return a copy relaxed on the driving potential, with its calculator and the constraints of the structure.

    cell : False for a fixed cell, ``"shape"`` at fixed volume, True for a variable cell
    fmax : eV/Å, largest norm of a force, as in ASE's optimisers; steps : most steps

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
    """Return energies, eV, of the driving potential (S,) and of the draws (K, S), at minima of the driving potential.

    second_order : subtract ½ gᵀ H̄⁻¹ g, which costs a Hessian for each structure

    raises : NotAMinimumError; ConfigurationError for constraints whose allowed displacements are curved
    """
    found = surfaces(structures, forces=second_order)
    value = np.array([both.driving.energy for both in found])
    draws = np.stack([both.draws.energy for both in found], axis=1)
    for s, (atoms, both) in enumerate(zip(structures, found, strict=True)):
        if second_order and len(atoms) > 1:  # a single atom has no free motions
            own, shared = gradient(both.draws, atoms), gradient(both.driving, atoms)
            free = free_motion(atoms, own, dense=True)
            if not free.linear:
                kinds = ", ".join(sorted({type(c).__name__ for c in atoms.constraints}))
                raise ConfigurationError(f"second_order=True takes constraints such as FixAtoms, got {kinds}")
            inverse = Inverse(surfaces.hessian(atoms).matrix(), free).of_minimum()
            value[s] -= respond(inverse, shared[None]).relaxation[0]
            draws[:, s] -= respond(inverse, own).relaxation
    return value, draws
