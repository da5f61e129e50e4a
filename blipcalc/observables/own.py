"""Minima for elastic constants: that of the surface that drives to the last digits, and that of every draw near it.

Draws begin in the minimum of the surface that drives, with its Hessian (:mod:`blipcalc.relaxation.members`); strains are among
the coordinates where lattices are their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from blipcalc.errors import NotConvergedError
from blipcalc.observables.relaxed import inverse_hessian
from blipcalc.relaxation.coordinates import FreeMotion, free_motion
from blipcalc.relaxation.members import relax_members
from blipcalc.surfaces import Surfaces, Values, deformation, displaced, gradient

#: Å, and strain times the length of the cell; a step below it is the last
ARRIVED = 1e-5
#: Newton steps; largest strain of a draw
STEPS, FAR = 20, 0.2


def motions(surfaces: Surfaces, atoms: Atoms, *, strains: bool) -> FreeMotion | None:
    """Free motions of a crystal without constraints, strains among them or not; None where nothing can move."""
    if len(atoms) == 1 and not strains:
        return None
    (both,) = surfaces([atoms])
    return free_motion(atoms, gradient(both.draws, atoms), np.eye(6) if strains else None)


def settled(surfaces: Surfaces, atoms: Atoms, free: FreeMotion | None) -> Atoms:
    """The minimum of the surface that drives, by Newton steps with one Hessian from a structure that was relaxed.

    raises : NotAMinimumError, NotConvergedError
    """
    if free is None:
        return atoms
    m = len(free.basis)
    inverse = inverse_hessian(surfaces.hessian(atoms, strain=True).matrix()[:m, :m], free.basis)
    q = np.zeros(3 * len(atoms) + 6)
    for _ in range(STEPS):
        moved = displaced(atoms, q)
        values = [surfaces.calculator.get_property(name, moved) for name in ("energy", "forces", "stress")]
        step = inverse @ slope(Values(*values), moved, q)[:m]
        q[:m] -= step
        if np.abs(step).max() < ARRIVED:
            return displaced(atoms, q)
    raise NotConvergedError(
        f"the last of {STEPS} Newton steps of the surface that drives was {np.abs(step).max():.3g} (Å or strain), expected "
        f"less than {ARRIVED:g}; relax with a smaller fmax"
    )


def own_minima(surfaces: Surfaces, atoms: Atoms, free: FreeMotion | None, matrix: np.ndarray) -> list[Atoms]:
    """K structures, the minimum of each draw.

    atoms : the minimum of the surface that drives; matrix : its Hessian, strains included

    raises : NotAMinimumError; NotConvergedError for draws that have no minimum near
    """
    if free is None:
        return [atoms] * surfaces.n_draws
    m = len(free.basis)
    reduced = np.linalg.pinv(free.basis) @ inverse_hessian(matrix[:m, :m], free.basis) @ np.linalg.pinv(free.basis).T
    found = relax_members(surfaces, atoms, free, lambda g: reduced @ g, tolerance=ARRIVED)
    strains = [np.abs(np.linalg.solve(atoms.cell.array, own.cell.array) - np.eye(3)).max() for own in found.structures]
    lost = [k for k, strain in enumerate(strains) if not (found.converged[k] and strain < FAR)]
    if lost:
        raise NotConvergedError(
            f"draws {lost} have no minimum within {100 * FAR:g} % strain of that of the surface that drives: the draws disagree "
            "too much for an error bar here; train more, or take shared_lattice=True"
        )
    return found.structures


def slopes(surfaces: Surfaces, origins: Sequence[Atoms], q: np.ndarray) -> np.ndarray:
    """(K, 3n + 6) ∂E_k/∂q of draw k at q_k (K, 3n + 6) from its own origin."""
    structures = [displaced(origin, row) for origin, row in zip(origins, q, strict=True)]
    values = surfaces.each(structures, stress=True)
    return np.array([slope(Values(*one), moved, row) for *one, moved, row in zip(*values, structures, q, strict=True)])


def slope(values: Values, moved: Atoms, q: np.ndarray) -> np.ndarray:
    """(3n + 6,) at q, where forces and stress are those of the structure that was moved there.

    With D = 1 + ε:  ∂E/∂u = -F Dᵀ,  ∂E/∂D = V D⁻ᵀ σ.
    """
    d = deformation(q[3 * len(moved) :])
    by_strain = moved.get_volume() * np.linalg.solve(d.T, voigt_6_to_full_3x3_stress(values.stress))
    return np.concatenate([-(values.forces @ d.T).ravel(), full_3x3_to_voigt_6_stress(by_strain)])
