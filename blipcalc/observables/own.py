"""The minimum of every draw near that of the surface that drives, strains among its coordinates.

    q_k ← q_k - H̄⁺ ∂E_k/∂q (q_k),   q = (u, e) as in :mod:`blipcalc.core.curvature`

| symbol | variable | meaning |
|---|---|---|
| q_k | ``q`` | displacements and strain of draw k from the shared structure |
| H̄⁺ | ``inverse`` | inverse Hessian of the surface that drives, where that is in its minimum |

The first step is linear response; the following ones take away what it neglects, by a factor of about the relative spread of the
Hessians each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from blipcalc.errors import NotConvergedError
from blipcalc.surfaces import Surfaces, Values, deformation, displaced

#: Å and strain; a step below it is the last
ARRIVED = 1e-5
#: steps, and the longest way (Å, strain) from the shared structure
STEPS, FAR = 30, 0.3

#: K structures -> what is known of each: energies (K,), forces (K, n, 3), stresses (K, 6)
Evaluate = Callable[[Sequence[Atoms]], Values]


def of_draws(surfaces: Surfaces) -> Evaluate:
    """Draw k on structure k."""
    return lambda structures: surfaces.each(structures, stress=True)


def of_driving(surfaces: Surfaces) -> Evaluate:
    """The surface that drives."""

    def evaluate(structures: Sequence[Atoms]) -> Values:
        names = ("energy", "forces", "stress")
        rows = [[surfaces.calculator.get_property(name, atoms) for name in names] for atoms in structures]
        return Values(*(np.array(column) for column in zip(*rows, strict=True)))

    return evaluate


def own_minima(evaluate: Evaluate, atoms: Atoms, inverse: np.ndarray, count: int) -> np.ndarray:
    """(count, 3n + 6) coordinates of the minima of ``count`` surfaces.

    inverse : (3n + 6, 3n + 6), zero for what is held fixed

    raises : NotConvergedError
    """
    q = np.zeros((count, len(inverse)))
    for _ in range(STEPS):
        step = slopes(evaluate, atoms, q) @ inverse
        q -= step
        longest, way = np.abs(step).max(), np.abs(q).max()
        if longest < ARRIVED:
            return q
        if not way < FAR:
            break
    raise NotConvergedError(
        f"the minima of some draws are too far from that of the surface that drives: after a way of {way:.3g} the last step "
        f"was {longest:.3g} (Å or strain), expected less than {ARRIVED:g}; the draws disagree too much for an error bar here, "
        "or the surface is too soft: train more, or take shared_lattice=True"
    )


def slopes(evaluate: Evaluate, atoms: Atoms | Sequence[Atoms], q: np.ndarray) -> np.ndarray:
    """(K, 3n + 6) ∂E_k/∂q at q_k, from one shared structure or from one for each k.

    With D = 1 + ε:  ∂E/∂u = -F Dᵀ,  ∂E/∂D = V D⁻ᵀ σ.
    """
    origins = [atoms] * len(q) if isinstance(atoms, Atoms) else atoms
    n = len(origins[0])
    structures = [displaced(origin, row) for origin, row in zip(origins, q, strict=True)]
    values = evaluate(structures)
    rows = []
    for moved, row, forces, stress in zip(structures, q, values.forces, values.stress, strict=True):
        d = deformation(row[3 * n :])
        by_strain = moved.get_volume() * np.linalg.solve(d.T, voigt_6_to_full_3x3_stress(stress))
        rows.append(np.concatenate([-(forces @ d.T).ravel(), full_3x3_to_voigt_6_stress(by_strain)]))
    return np.array(rows)
