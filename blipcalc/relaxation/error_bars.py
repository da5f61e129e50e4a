"""Compute error bars of a relaxed structure by linear response if it is reliable, else by relaxing every draw.

| step | details |
|---|---|
| Hessian of the driving potential | :mod:`blipcalc.relaxation.linear_response` |
| a Newton step with it | the optimiser's remaining forces can shift a bond by as much as its error bar |
| minima of the draws, to first order | cheap |
| checks of linear response | no curved constraint, no soft coordinate, a small spread, small forces of the draws there |
| if a check fails, relax every draw | :mod:`blipcalc.relaxation.minima_per_draw` |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms

from blipcalc.calculators.draw_surfaces import Both, Hessian, Surfaces, Values, constraint_energy, gradient
from blipcalc.core.deformation import displaced
from blipcalc.relaxation.coordinates import MOST_ATOMS, FreeMotion
from blipcalc.relaxation.linear_response import (
    SOFT,
    Inverse,
    Response,
    UnderPressure,
    respond,
    respond_by_products,
)
from blipcalc.relaxation.minima_per_draw import relax_members
from blipcalc.relaxation.result import ErrorBars, Method, in_frame_of

#: Å, largest spread of an atom for linear response
SPREAD = 0.05
#: largest ratio of the remaining steps of the draws to the shifts of linear response
LEFT_OUT = 0.2
#: number of draws whose forces are checked at their predicted minima: those with the largest shifts
ASKED = 4
#: eV/Å², lower bound on stiffnesses in the preconditioner of a draw's relaxation
FLOOR = 0.5
#: eV/Å², stiffness of all coordinates if no Hessian matrix was built
STIFF = 30.0
#: Å, a draw in which an atom moves further has found another minimum
ANOTHER = 0.5
#: note on a structure that converged to a saddle because of its symmetry
SADDLE = (
    "this is a saddle of the surface that drives, not a minimum: a curvature is {:.2g} eV/Å²; break the symmetry "
    "(atoms.rattle(0.05)) and relax again, for draws slide down from here and their spread says little"
)
How = Literal["auto", "response", "relax"]


@dataclass(frozen=True)
class Minimum:
    """Structure relaxed on the driving potential, with all draws there.

    surfaces : driving potential and draws; atoms : the structure; both : values of all of them there; free : free motions;
    pressure : eV/Å³
    """

    surfaces: Surfaces
    atoms: Atoms
    both: Both
    free: FreeMotion
    pressure: float = 0.0

    def gradients(self, values: Values) -> np.ndarray:
        """Return derivatives (…, m) of energy or enthalpy with respect to all coordinates."""
        return gradient(values, self.atoms, strain=self.free.strain, pressure=self.pressure)

    def hessian(self) -> Hessian:
        """Return the Hessian of the driving potential, with the p V term."""
        found = self.surfaces.hessian(self.atoms, strain=self.free.strain)
        return UnderPressure(found, self.pressure, self.atoms.get_volume()) if self.pressure else found

    @property
    def work(self) -> float:
        """Return p V and the energy of constraints such as ``Hookean``, eV."""
        return constraint_energy(self.atoms) + (self.pressure * self.atoms.get_volume() if self.free.strain else 0.0)


def find_bars(minimum: Minimum, how: How) -> tuple[ErrorBars, tuple[str, ...]]:
    """Return error bars from the per-draw minima, by the requested or else by a reliable method, and notes.

    The structure is moved by a Newton step if that lowers its forces; the draws start from the structure before that step.
    """
    atoms, surfaces, both = minimum.atoms, minimum.surfaces, minimum.both
    if not minimum.free.size:
        return _of_held(minimum), ()
    hessian = minimum.hessian()
    inverse = Inverse(hessian.matrix(), minimum.free) if len(atoms) <= MOST_ATOMS else None
    gradients, work = minimum.gradients(both.draws), minimum.work
    found = respond(inverse, gradients) if inverse else respond_by_products(hessian, minimum.free, gradients)
    fault = None if how == "relax" else fault_of(minimum, gradients, found, inverse)
    notes: tuple[str, ...] = ()
    method: Method
    if how == "response" or (how == "auto" and fault is None):
        method, why = "linear response", fault or "no soft coordinate, small spread, draws agree"
        structures = [displaced(atoms, shift) for shift in found.shifts]
        energies = both.draws.energy + work - found.relaxation
        converged = np.ones(surfaces.n_draws, dtype=bool)
        if fault:
            notes = (f"linear response is not safe here: {fault}",)
    else:
        method, why = "re-relaxed", fault or "as asked"
        members = relax_members(
            surfaces, atoms, minimum.free, _preconditioner(inverse), begin=both.draws, pressure=minimum.pressure
        )
        structures, energies, converged = members.structures, members.energy, members.converged
        notes = _of_members(atoms, structures, converged)
    energy_here = float(both.driving.energy) + work
    if inverse is not None and inverse.values.min() > SOFT and minimum.free.linear:
        energy_here = newton_step(minimum, inverse)
    if minimum.free.linear and found.softest < -SOFT:  # constraints that are curved, or springs, add a curvature
        notes = (*notes, SADDLE.format(found.softest))
    places = in_frame_of(atoms, structures)
    positions = surfaces.estimate(atoms.positions, places, "Å", atoms, of="forces", note="positions")
    name = "enthalpy" if minimum.pressure else "energy"
    energy = surfaces.estimate(energy_here, energies, "eV", atoms, of="energy", note=name)
    return ErrorBars(structures, energy, positions, method, why, found.softest, converged), notes


def newton_step(minimum: Minimum, inverse: Inverse) -> float:
    """Move the structure by a Newton step if that lowers its forces; return the driving potential's energy (eV, with p V)."""
    atoms, free, calculator = minimum.atoms, minimum.free, minimum.surfaces.calculator
    before = minimum.gradients(minimum.both.driving)
    step = -inverse(before[None])[0]
    here = float(minimum.both.driving.energy) + minimum.work
    if np.abs(step[: 3 * len(atoms)]).max() > SPREAD:
        return here
    cell, positions, moved = atoms.cell.array.copy(), atoms.positions.copy(), displaced(atoms, step)
    wanted = ("energy", "forces", "stress") if free.strain else ("energy", "forces")
    there = Values(*(calculator.get_property(name, moved) for name in wanted), *([] if free.strain else [None]))
    atoms.set_cell(moved.cell)
    atoms.positions = moved.positions
    if np.linalg.norm(free.down(minimum.gradients(there))) < np.linalg.norm(free.down(before)):
        return float(there.energy) + minimum.work
    atoms.set_cell(cell)
    atoms.positions = positions
    return here


def fault_of(minimum: Minimum, gradients: np.ndarray, found: Response, inverse: Inverse | None) -> str | None:
    """Return why linear response is not reliable, or None."""
    atoms, free = minimum.atoms, minimum.free
    if not free.linear:
        return "constraints that are curved, or pull"
    if found.softest < SOFT:
        return f"a soft or negative coordinate, {found.softest:.2g} eV/Å²"
    calibration_factor = minimum.surfaces.calibration_factor(atoms, "forces")
    moved = found.shifts[:, : 3 * len(atoms)].reshape(len(found.shifts), -1, 3)
    spread = np.nan_to_num(calibration_factor, nan=1.0) * np.sqrt(moved.var(axis=0, ddof=1).mean(axis=1).max())
    if spread > SPREAD:
        return f"a spread of {spread:.2g} Å"
    widest = np.argsort(-np.linalg.norm(found.shifts, axis=1))[:ASKED]
    own = minimum.surfaces.each(
        [displaced(atoms, found.shifts[k]) for k in widest], stress=free.strain, which=widest.tolist()
    )
    left = minimum.gradients(own)
    # without a matrix, compare forces instead of Newton steps
    steps, before = (free.down(left), free.down(gradients)) if inverse is None else (inverse(left), found.shifts)
    before = before[widest]
    share = float(np.sqrt((steps**2).sum() / max((before**2).sum(), 1e-300)))
    if share > LEFT_OUT:
        return f"forces of the draws in their predicted minima would move them on by {100 * share:.0f} % of the way"
    return None


def _of_held(minimum: Minimum) -> ErrorBars:
    """Return the error bars of a structure without free motions: all draws have the same positions."""
    atoms, surfaces, both = minimum.atoms, minimum.surfaces, minimum.both
    structures = [displaced(atoms, np.zeros(3 * len(atoms))) for _ in range(surfaces.n_draws)]
    places = np.repeat(atoms.positions[None], surfaces.n_draws, axis=0)
    return ErrorBars(
        structures,
        surfaces.estimate(
            both.driving.energy + minimum.work,
            both.draws.energy + minimum.work,
            "eV",
            atoms,
            of="energy",
            note="energy",
        ),
        surfaces.estimate(atoms.positions, places, "Å", atoms, of="forces", note="positions"),
        "linear response",
        "nothing can move",
        np.inf,
        np.ones(surfaces.n_draws, dtype=bool),
    )


def _preconditioner(inverse: Inverse | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return H₀⁻¹ along free motions: from |H̄| with a lower bound on stiffness, or one stiffness without a matrix."""
    return (lambda g: g / STIFF) if inverse is None else (lambda g: inverse.stiff(g, FLOOR))


def _of_members(atoms: Atoms, structures: Sequence[Atoms], converged: np.ndarray) -> tuple[str, ...]:
    """Return notes on draws that did not converge, and on draws with a minimum elsewhere."""
    notes = []
    if not converged.all():
        notes.append(f"draws {np.flatnonzero(~converged).tolist()} did not come to a minimum")
    moved = np.linalg.norm(in_frame_of(atoms, structures) - atoms.positions, axis=-1).max(axis=1)
    if (moved > ANOTHER).any():
        which = np.flatnonzero(moved > ANOTHER).tolist()
        notes.append(f"draws {which} have their minimum elsewhere, up to {moved.max():.2g} Å away")
    return tuple(notes)
