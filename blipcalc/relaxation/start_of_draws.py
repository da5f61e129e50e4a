"""Compute the minima of a crystal: that of the driving potential to high precision, and the per-draw minima near it.

Draws start in the minimum of the driving potential, with its Hessian (:mod:`blipcalc.relaxation.minima_per_draw`); if every draw
has its own lattice, strains are among the coordinates.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms

from blipcalc.calculators.draw_surfaces import Surfaces, gradient
from blipcalc.core.deformation import displaced
from blipcalc.errors import NotConvergedError
from blipcalc.relaxation.coordinates import FreeMotion, free_motion
from blipcalc.relaxation.linear_response import SOFT, Inverse
from blipcalc.relaxation.minima_per_draw import relax_members

#: Å, and strain times the length of the cell: largest step at convergence
ARRIVED = 1e-5
#: most Newton steps; largest strain of a draw
STEPS, FAR = 20, 0.2


def motions(surfaces: Surfaces, atoms: Atoms, *, strains: bool) -> FreeMotion | None:
    """Return the free motions of a crystal without constraints, with or without strains; None if nothing can move."""
    if len(atoms) == 1 and not strains:
        return None
    (both,) = surfaces([atoms])
    return free_motion(atoms, gradient(both.draws, atoms), np.eye(6) if strains else None, dense=True)


def settled(surfaces: Surfaces, atoms: Atoms, free: FreeMotion | None) -> Atoms:
    """Return the minimum of the driving potential, by Newton steps with one Hessian from a relaxed structure.

    raises : NotAMinimumError, NotConvergedError
    """
    if free is None:
        return atoms
    m = len(free.matrix)
    inverse = Inverse(surfaces.hessian(atoms, strain=free.strain).matrix(), free).of_minimum()
    q = np.zeros(m)
    for _ in range(STEPS):
        step = inverse(surfaces.slope_at(atoms, q))
        q -= step
        if np.abs(step).max() < ARRIVED:
            return displaced(atoms, q)
    raise NotConvergedError(
        f"the last of {STEPS} Newton steps of the surface that drives was {np.abs(step).max():.3g} (Å or strain), expected "
        f"less than {ARRIVED:g}; relax with a smaller fmax"
    )


def own_minima(surfaces: Surfaces, atoms: Atoms, free: FreeMotion | None, matrix: np.ndarray) -> list[Atoms]:
    """Return the K per-draw minima.

    atoms : the minimum of the driving potential; matrix : its Hessian, including strains

    raises : NotConvergedError for draws without a minimum nearby
    """
    if free is None:
        return [atoms] * surfaces.n_draws
    m = len(free.matrix)
    inverse = Inverse(matrix[:m, :m], free)
    found = relax_members(surfaces, atoms, free, lambda g: inverse.stiff(g, SOFT), tolerance=ARRIVED)
    strains = [np.abs(np.linalg.solve(atoms.cell.array, own.cell.array) - np.eye(3)).max() for own in found.structures]
    lost = [k for k, strain in enumerate(strains) if not (found.converged[k] and strain < FAR)]
    if lost:
        raise NotConvergedError(
            f"draws {lost} have no minimum within {100 * FAR:g} % strain of that of the surface that drives: the draws disagree "
            "too much for an error bar here; train more, or take shared_lattice=True"
        )
    return found.structures
