"""Error bars of a relaxed structure: by linear response where it can be trusted, else by relaxing every draw.

| step | what for |
|---|---|
| Hessian of the surface that drives | :mod:`blipcalc.relaxation.linear_response` |
| a Newton step with it | an optimiser ends with forces that are worth as much as an error bar of a bond |
| minima of the draws, to first order | cheap |
| is that safe? | no curved constraint, no soft coordinate, a small spread, little force left on the draws there |
| if not, every draw on its own | :mod:`blipcalc.relaxation.minima_per_draw` |
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

#: Å, largest spread of an atom for which a first order is trusted
SPREAD = 0.05
#: how large what linear response leaves out may be, of what it gives
LEFT_OUT = 0.2
#: draws that are asked for their forces at their predicted minima: those that move furthest
ASKED = 4
#: eV/Å², below which stiffnesses are not taken at their word when a draw relaxes by itself
FLOOR = 0.5
#: eV/Å², of all coordinates of a structure whose matrix was not built
STIFF = 30.0
#: Å, a draw that moves an atom further has found another minimum
ANOTHER = 0.5
#: what a user should do about a structure that came to rest by its symmetry alone
SADDLE = (
    "this is a saddle of the surface that drives, not a minimum: a curvature is {:.2g} eV/Å²; break the symmetry "
    "(atoms.rattle(0.05)) and relax again, for draws slide down from here and their spread says little"
)
How = Literal["auto", "response", "relax"]


@dataclass(frozen=True)
class Minimum:
    """A structure that was relaxed on the surface that drives.

    surfaces : with the draws; atoms : the structure; both : all surfaces at it; free : its motions; pressure : eV/Å³
    """

    surfaces: Surfaces
    atoms: Atoms
    both: Both
    free: FreeMotion
    pressure: float = 0.0

    def gradients(self, values: Values) -> np.ndarray:
        """(…, m) with respect to all coordinates."""
        return gradient(values, self.atoms, strain=self.free.strain, pressure=self.pressure)

    def hessian(self) -> Hessian:
        """Of the surface that drives, under its pressure."""
        found = self.surfaces.hessian(self.atoms, strain=self.free.strain)
        return UnderPressure(found, self.pressure, self.atoms.get_volume()) if self.pressure else found

    @property
    def work(self) -> float:
        """eV, p V, and what constraints such as ``Hookean`` add."""
        return constraint_energy(self.atoms) + (self.pressure * self.atoms.get_volume() if self.free.strain else 0.0)


def find_bars(minimum: Minimum, how: How) -> tuple[ErrorBars, tuple[str, ...]]:
    """Minima of the draws, by the way that was asked for or by the one that can be trusted, and what a user should know.

    The structure is moved by a Newton step where one helps; minima of the draws are found from where it was before.
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
    if minimum.free.linear and found.softest < -SOFT:  # curved constraints, and springs, have a curvature of their own
        notes = (*notes, SADDLE.format(found.softest))
    places = in_frame_of(atoms, structures)
    positions = surfaces.estimate(atoms.positions, places, "Å", atoms, of="forces", note="positions")
    name = "enthalpy" if minimum.pressure else "energy"
    energy = surfaces.estimate(energy_here, energies, "eV", atoms, of="energy", note=name)
    return ErrorBars(structures, energy, positions, method, why, found.softest, converged), notes


def newton_step(minimum: Minimum, inverse: Inverse) -> float:
    """Move the structure by a Newton step on the surface that drives, where that helps, and give its energy (eV, with p V)."""
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
    """Why a first order is not to be trusted, or None."""
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
    # without a matrix forces stand for the steps that they would make
    steps, before = (free.down(left), free.down(gradients)) if inverse is None else (inverse(left), found.shifts)
    before = before[widest]
    share = float(np.sqrt((steps**2).sum() / max((before**2).sum(), 1e-300)))
    if share > LEFT_OUT:
        return f"forces of the draws in their predicted minima would move them on by {100 * share:.0f} % of the way"
    return None


def _of_held(minimum: Minimum) -> ErrorBars:
    """Of a structure of which nothing can move but as a whole: all draws have their minimum there."""
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
    """H₀⁻¹ along free motions, for draws on their own: |H̄| with soft coordinates stiffened, or what suits most bonds."""
    return (lambda g: g / STIFF) if inverse is None else (lambda g: inverse.stiff(g, FLOOR))


def _of_members(atoms: Atoms, structures: Sequence[Atoms], converged: np.ndarray) -> tuple[str, ...]:
    """Draws that did not arrive, and draws that arrived elsewhere."""
    notes = []
    if not converged.all():
        notes.append(f"draws {np.flatnonzero(~converged).tolist()} did not come to a minimum")
    moved = np.linalg.norm(in_frame_of(atoms, structures) - atoms.positions, axis=-1).max(axis=1)
    if (moved > ANOTHER).any():
        which = np.flatnonzero(moved > ANOTHER).tolist()
        notes.append(f"draws {which} have their minimum elsewhere, up to {moved.max():.2g} Å away")
    return tuple(notes)
