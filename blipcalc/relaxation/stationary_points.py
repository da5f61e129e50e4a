"""Relax every draw to its stationary point, from that of the driving potential.

    x_k ← x_k - Q (Qᵀ B_k Q)⁻¹ Qᵀ g_k(x_k),   B_k = H̄ at first, then updated from the gradients seen

| symbol | variable | meaning |
|---|---|---|
| x_k, g_k | ``structures``, ``gradient`` | structure of draw k and ∂E_k/∂x there |
| H̄ | ``hessian`` | of the driving potential at its stationary point |
| Q | ``basis`` | of all motions but rigid ones |

The first step is linear response to the draw; further ones make it exact.  The symmetric rank-one update (Conn, Gould and Toint
1991) does not force curvatures to be positive, so that a minimum leads to a minimum and a saddle to a saddle.  All draws move
as one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms

from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.errors import NotStationaryError

#: Å, longest displacement in one step
LONGEST = 0.1
#: most steps, and largest displacement in Å: beyond them a draw has another stationary point, or none
STEPS, FARTHEST = 60, 1.0
#: eV/Å, largest initial force component of the driving potential
FAR = 0.1


def at_rest(
    surfaces: Surfaces, start: Atoms, hessian: np.ndarray, free: np.ndarray, basis: np.ndarray, fmax: float
) -> tuple[Atoms, list[Atoms]]:
    """Return the stationary points of the driving potential and of the K draws; arguments as :func:`settled`."""
    (driving,) = settled(surfaces.driving_forces, [start], hessian, free, basis, fmax=fmax)
    begin = [driving] * surfaces.n_draws
    return driving, settled(surfaces.forces_of_each, begin, hessian, free, basis, fmax=fmax)


def settled(
    forces: Callable[[Sequence[Atoms]], np.ndarray],
    starts: Sequence[Atoms],
    hessian: np.ndarray,
    free: np.ndarray,
    basis: np.ndarray,
    *,
    fmax: float,
) -> list[Atoms]:
    """Relax each start to a stationary point, with forces along the basis below ``fmax``.

    forces : B structures -> (B, n, 3) eV/Å, each of its own potential
    hessian : (m, m) eV/Å² of the free coordinates; free : (3n,) True for these; basis : (m, M) orthonormal
    fmax : eV/Å, of the largest component

    raises : NotStationaryError if that takes more than :data:`STEPS` steps, or a displacement above :data:`FARTHEST`
    """
    inner = basis.T @ hessian @ basis
    curvature = np.repeat(inner[None], len(starts), axis=0)
    structures = [atoms.copy() for atoms in starts]
    gradient = _gradient(forces, structures, free) @ basis
    for _ in range(STEPS):
        open_ = np.abs(gradient @ basis.T).max(axis=1) > fmax
        if not open_.any():
            return structures
        if max(map(_way, structures, starts)) > FARTHEST:
            break
        steps = np.where(open_[:, None], _steps(curvature, gradient, basis), 0.0)
        for atoms, step in zip(structures, steps, strict=True):
            move = np.zeros(free.size)
            move[free] = basis @ step
            atoms.positions += move.reshape(-1, 3)
        before, gradient = gradient, _gradient(forces, structures, free) @ basis
        for b, step, change in zip(curvature, steps, gradient - before, strict=True):
            rest = change - b @ step
            norm = rest @ step
            if abs(norm) > 1e-8 * np.linalg.norm(rest) * np.linalg.norm(step):
                b += np.outer(rest, rest) / norm
    forces_left, ways = np.abs(gradient @ basis.T).max(axis=1), list(map(_way, structures, starts))
    worst = int(np.argmax(ways if max(ways) > FARTHEST else forces_left))
    raise NotStationaryError(
        f"expected forces below {fmax} eV/Å within {STEPS} steps and {FARTHEST} Å of the surface that drives, got "
        f"{forces_left[worst]:.3g} eV/Å after {ways[worst]:.2f} Å on surface {worst} of {len(starts)}; it may have another "
        "minimum; relax it further, or give the structures of the draws as relaxed elsewhere"
    )


def check_near_rest(surfaces: Surfaces, atoms: Atoms, free: np.ndarray) -> None:
    """Raise NotStationaryError for a structure that is far from a stationary point of the driving potential.

    free : (3n,) True for coordinates that may move
    """
    largest = np.abs(surfaces.driving_forces([atoms]).ravel()[free]).max()
    if not largest <= FAR:
        raise NotStationaryError(
            f"expected a relaxed structure, with forces below {FAR} eV/Å, got {largest:.3g} eV/Å; relax it first on the same "
            "calculator"
        )


def _way(atoms: Atoms, start: Atoms) -> float:
    return float(np.linalg.norm(atoms.positions - start.positions, axis=1).max())


def _gradient(forces: Callable[[Sequence[Atoms]], np.ndarray], structures: list[Atoms], free: np.ndarray) -> np.ndarray:
    return -forces(structures).reshape(len(structures), -1)[:, free]


def _steps(curvature: np.ndarray, gradient: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return Newton steps (B, M), none longer than :data:`LONGEST`; near-zero curvatures are replaced by ±1e-3 eV/Å²."""
    values, vectors = np.linalg.eigh(curvature)
    values = np.where(np.abs(values) < 1e-3, np.copysign(1e-3, values), values)
    along = np.einsum("kab,ka->kb", vectors, gradient) / values
    steps = -np.einsum("kab,kb->ka", vectors, along)
    longest = np.abs(steps @ basis.T).max(axis=1, keepdims=True)
    return steps * np.minimum(1.0, LONGEST / np.maximum(longest, 1e-300))
