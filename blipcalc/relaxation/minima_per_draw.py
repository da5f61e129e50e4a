"""Compute per-draw minima: every draw is relaxed from the driving potential's minimum, all in one batch.

All draws start in the minimum of the driving potential, with its Hessian: limited-memory quasi-Newton steps (Liu and Nocedal
1989, doi:10.1007/BF01589116) from H₀ = |H̄|, so that few steps are needed.  A step that raises the energy is undone and the next
is half as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

from blipcalc.calculators.draw_surfaces import Surfaces, Values, constraint_energy, gradient
from blipcalc.core.deformation import displaced
from blipcalc.core.demanded import demanded
from blipcalc.relaxation.coordinates import FreeMotion

#: Å, longest move of an atom in a step; number of steps and gradients in the quasi-Newton memory
LONGEST, MEMORY = 0.2, 30
#: eV, largest rise of the energy in a step
UPHILL = 1e-6


@dataclass
class Walk:
    """State of the relaxation of one draw: structure, energy, gradient along free motions, and quasi-Newton memory."""

    atoms: Atoms
    energy: float = np.inf
    slope: np.ndarray | None = None
    longest: float = LONGEST
    before: tuple[Atoms, float, np.ndarray, np.ndarray] | None = None
    memory: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    steps: int = 0
    done: bool = False


@dataclass(frozen=True)
class Members:
    """Per-draw minima of K draws.

    structures : K minima
    energy : (K,) eV, with p V under a pressure
    converged : (K,) whether each draw reached its minimum
    steps : (K,) evaluations of each draw
    """

    structures: list[Atoms]
    energy: np.ndarray
    converged: np.ndarray
    steps: np.ndarray


def relax_members(
    surfaces: Surfaces,
    atoms: Atoms,
    free: FreeMotion,
    precondition: Callable[[np.ndarray], np.ndarray],
    *,
    begin: Values | None = None,
    pressure: float = 0.0,
    tolerance: float = 1e-4,
    steps: int = 200,
) -> Members:
    """Relax all draws and return their minima.

    Parameters
    ----------
    atoms : the minimum of the driving potential, with its constraints
    free : motions along which all draws move
    precondition : (f,) gradient along free motions -> (f,) H₀⁻¹ g
    begin : values of the K draws at that minimum, if known
    pressure : eV/Å³
    tolerance : Å; a draw is converged when its next step moves no atom by more
    steps : most evaluations of a draw
    """
    walks = [Walk(_copy(atoms)) for _ in range(surfaces.n_draws)]
    values = begin
    for _ in range(steps):
        going = [k for k, walk in enumerate(walks) if not walk.done]
        if not going:
            break
        if values is None:
            values = surfaces.each([walks[k].atoms for k in going], stress=free.strain, which=going)
        for row, k in enumerate(going):
            _advance(walks[k], values.of(row), free, precondition, pressure, tolerance)
        values = None
    return Members(
        [walk.atoms for walk in walks],
        np.array([walk.energy for walk in walks]),
        np.array([walk.done for walk in walks]),
        np.array([walk.steps for walk in walks]),
    )


def _advance(
    walk: Walk,
    values: Values,
    free: FreeMotion,
    precondition: Callable[[np.ndarray], np.ndarray],
    pressure: float,
    tolerance: float,
) -> None:
    """Update one draw with its new energy and gradient, and make its next step or undo the last."""
    walk.steps += 1
    energy = (
        float(values.energy) + constraint_energy(walk.atoms) + (pressure * walk.atoms.get_volume() if pressure else 0.0)
    )
    slope = gradient(_constrained(values, walk.atoms), walk.atoms, strain=free.strain, pressure=pressure)
    slope = free.down(slope)
    if walk.before is not None:
        atoms, lower, old_slope, moved = walk.before
        if energy > lower + UPHILL:
            walk.atoms, walk.energy, walk.slope = atoms, lower, old_slope
            walk.longest = 0.5 * min(walk.longest, _length(free.up(moved), len(atoms), free))
            walk.memory.clear()
            _step(walk, old_slope, free, precondition, tolerance)
            return
        change = slope - old_slope
        if moved @ change > 1e-12:
            walk.memory = [*walk.memory[1 - MEMORY :], (moved, change)]
        walk.longest = min(2 * walk.longest, LONGEST)
    walk.energy, walk.slope = energy, slope
    _step(walk, slope, free, precondition, tolerance)


def _step(
    walk: Walk, slope: np.ndarray, free: FreeMotion, precondition: Callable[[np.ndarray], np.ndarray], tolerance: float
) -> None:
    """Make a quasi-Newton step from a slope, or mark the draw as converged."""
    q, used = slope.copy(), []
    for moved, change in reversed(walk.memory):
        a = (moved @ q) / (moved @ change)
        q -= a * change
        used.append(a)
    step = precondition(q)
    for (moved, change), a in zip(walk.memory, reversed(used), strict=True):
        step += moved * (a - (change @ step) / (moved @ change))
    length = _length(free.up(step), len(walk.atoms), free)
    if length <= tolerance:
        walk.done = True
        return
    move = -step * min(1.0, walk.longest / length)
    there = displaced(walk.atoms, free.up(move))
    there.set_constraint(walk.atoms.constraints)
    if not free.linear:
        goal = there.positions.copy()
        there.positions = walk.atoms.positions
        there.set_positions(goal)
    walk.before = walk.atoms, walk.energy, slope, move
    walk.atoms = there


def _length(q: np.ndarray, n_atoms: int, free: FreeMotion) -> float:
    """Return the largest displacement of an atom, Å; strains count as displacements by their length."""
    longest = float(np.linalg.norm(q[: 3 * n_atoms].reshape(-1, 3), axis=1).max())
    return max(longest, float(np.abs(q[3 * n_atoms :]).max()) * free.length) if free.strain else longest


def _constrained(values: Values, atoms: Atoms) -> Values:
    """Return values with the forces adjusted by all constraints, including those that add forces."""
    forces = demanded(values.forces, "forces").copy()
    for constraint in atoms.constraints:
        constraint.adjust_forces(atoms, forces)
    return values._replace(forces=forces)


def _copy(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.calc = None
    return copy
