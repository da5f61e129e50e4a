"""``relax``: a structure in its minimum, and how well that minimum is known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.optimize.optimize import Optimizer

from blipcalc.calculator import DISTANCE
from blipcalc.errors import ConfigurationError
from blipcalc.monitor.actions import Action
from blipcalc.monitor.channels import Outside
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.monitor.triggers import Trigger
from blipcalc.relaxation.cell import Cell, cell_filter, response_of
from blipcalc.relaxation.coordinates import MOST_ATOMS, FreeMotion, free_motion
from blipcalc.relaxation.descent import descend, optimizer_of
from blipcalc.relaxation.members import relax_members
from blipcalc.relaxation.response import SOFT, Inverse, UnderPressure, respond, respond_by_products
from blipcalc.relaxation.result import ErrorBars, Relaxed, in_frame_of
from blipcalc.settings import number, whole
from blipcalc.surfaces import Both, Surfaces, displaced, gradient

#: Å, largest spread of an atom for which a first order is trusted
SPREAD = 0.05
#: how large what linear response leaves out may be, of what it gives
LEFT_OUT = 0.2
#: eV/Å², below which stiffnesses are not taken at their word when a draw relaxes by itself
FLOOR = 0.5
#: eV/Å², of all coordinates of a structure whose matrix was not built
STIFF = 30.0
#: latent distance beyond which a structure lies outside of the data: 10 ps of ethanol at 300 K stay below
#: (examples/reproduce/guard_rmd17.py, limit for 20 halts per ns)
FAR = 4.0
#: Å, a draw that moves an atom further has found another minimum
ANOTHER = 0.5
Bars = Literal["auto", "response", "relax"]


def relax(
    atoms: Atoms,
    *,
    optimizer: str | type[Optimizer] = "BFGS",
    fmax: float = 0.01,
    z: float = 0.3,
    steps: int = 500,
    cell: Cell = False,
    pressure_GPa: float = 0.0,
    error_bars: Bars | None = "auto",
    tolerance: float | None = None,
    threshold: float | Mapping[str, float] | None = None,
    outside: float | None = None,
    triggers: Sequence[Trigger] = (),
    on_breach: Sequence[str | Action] | str | Action = "flag",
    trajectory: str | Path | None = None,
    logfile: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Relaxed:
    """Relax a structure on the surface that drives, and find where the draws have their minima.

    It stops at max(fmax, z σ_F), and says which (:mod:`blipcalc.relaxation.descent`).  Error bars are those of the implicit
    function theorem (:mod:`blipcalc.relaxation.response`) where that can be trusted: no soft coordinate, a spread below 0.05 Å,
    and draws whose forces at their predicted minima agree; else every draw is relaxed (:mod:`blipcalc.relaxation.members`).

    Parameters
    ----------
    atoms : with a BayesianCalculator, or a CombinedCalculator around one; moved in place.  Constraints are respected
    optimizer : name or class of one of ASE's, with ``options``
    fmax, z : eV/Å; z = 0 stops at fmax
    steps : of the optimiser at most
    cell : False; True; ``"isotropic"``; ``"shape"`` at fixed volume; a mask of six; or one of ASE's filters around ``atoms``
    pressure_GPa : that a cell which moves is under
    error_bars : ``"auto"``; ``"response"`` or ``"relax"`` whatever the checks say; None for none
    tolerance, threshold, triggers, on_breach : rules of an :class:`~blipcalc.monitor.observer.UncertaintyMonitor` that watches
        every step; a breach is flagged unless told otherwise, for many a structure begins far from its minimum
    outside : largest latent distance that is no breach, watched at every step; None looks at the end alone
    trajectory, logfile : of the optimiser

    Raises
    ------
    ConfigurationError : contradictory settings, another calculator; DrawsError : error bars of fewer than two draws
    StructureError : and its kinds, for a structure that cannot be evaluated

    Examples
    --------
    >>> atoms.calc = BayesianCalculator("rmd17")
    >>> relaxed = blipcalc.relax(atoms)
    >>> relaxed.table()
    >>> relaxed.distance(0, 1).std
    """
    fmax, z = number("fmax", fmax, above=0.0), number("z", z, above=-1e-300)
    steps = whole("steps", steps, 0)
    if error_bars not in ("auto", "response", "relax", None):
        raise ConfigurationError(f"error_bars={error_bars!r}; expected 'auto', 'response', 'relax' or None")
    surfaces = Surfaces(atoms.calc) if error_bars is not None else None
    around = cell_filter(atoms, cell, pressure_GPa)
    response = None if around is None else response_of(around)
    log = {"logfile": None if logfile is None else str(logfile)}
    log["trajectory"] = None if trajectory is None else str(trajectory)
    dynamics = optimizer_of(optimizer, atoms if around is None else around, {**log, **(options or {})})
    rules = [*triggers, *([] if outside is None else [Outside(outside)])]
    with contextlib.closing(dynamics) if hasattr(dynamics, "close") else contextlib.nullcontext():
        monitor = None
        if rules or tolerance is not None or threshold is not None:
            monitor = UncertaintyMonitor(
                dynamics, tolerance=tolerance, threshold=threshold, triggers=rules, on_breach=on_breach
            )
        descent = descend(dynamics, atoms, response, fmax=fmax, z=z, steps=steps)
    notes = _notes(atoms, monitor)
    if surfaces is None or not descent.done:
        return Relaxed(atoms, descent, None, notes)
    strain = None if response is None else response.strains
    (both,) = surfaces([atoms], stress=strain is not None)
    free = free_motion(atoms, gradient(both.draws, atoms), strain, atoms_move=response is None or response.atoms_move)
    bars, said = _bars(surfaces, atoms, both, free, 0.0 if response is None else response.pressure, error_bars)
    return Relaxed(atoms, descent, bars, (*notes, *said))


def _notes(atoms: Atoms, monitor: UncertaintyMonitor | None) -> tuple[str, ...]:
    """What the monitor saw, and where the structure lies at the end."""
    notes = []
    if monitor is not None and monitor.history["breached"].any():
        worst = monitor.history["breached"].sum()
        notes.append(f"the monitor was breached at {worst} of {len(monitor.history)} steps")
    if DISTANCE in atoms.calc.implemented_properties:
        distance = atoms.calc.get_property(DISTANCE, atoms)
        far = np.flatnonzero(~(distance <= FAR))
        if len(far):
            named = ", ".join(f"{atoms.symbols[i]}{i}" for i in far[:6])
            notes.append(
                f"atoms {named} lie outside of the data of the model (latent distance up to {np.nanmax(distance):.3g}, "
                f"{FAR:g} is far): error bars are not to be relied on"
            )
    return tuple(notes)


def _bars(
    surfaces: Surfaces, atoms: Atoms, both: Both, free: FreeMotion, pressure: float, how: Bars
) -> tuple[ErrorBars, tuple[str, ...]]:
    """Minima of the draws by the way that was asked for, or by the one that can be trusted."""
    gradients = gradient(both.draws, atoms, strain=free.strain, pressure=pressure)
    volume = atoms.get_volume() if free.strain else 0.0
    enthalpy = pressure * volume
    hessian = surfaces.hessian(atoms, strain=free.strain)
    if pressure:
        hessian = UnderPressure(hessian, pressure, volume)
    inverse = Inverse(hessian.matrix(), free) if len(atoms) <= MOST_ATOMS else None
    found = respond(inverse, gradients) if inverse else respond_by_products(hessian, free, gradients)
    widening = surfaces.widening(atoms, "forces")
    structures = [displaced(atoms, shift) for shift in found.shifts]
    fault = _fault(surfaces, atoms, free, gradients, found.shifts, found.softest, widening, inverse, pressure)
    notes: tuple[str, ...] = ()
    if how == "response" or (how == "auto" and fault is None):
        method, why = "linear response", fault or "no soft coordinate, small spread, draws agree"
        energies, converged = both.draws.energy + enthalpy - found.relaxation, np.ones(surfaces.n_draws, dtype=bool)
        if fault:
            notes = (f"linear response is not safe here: {fault}",)
    else:
        method, why = "re-relaxed", fault or "as asked"
        members = relax_members(surfaces, atoms, free, _preconditioner(inverse), pressure=pressure)
        structures, energies, converged = members.structures, members.energy, members.converged
        notes = _of_members(atoms, structures, converged)
    positions = surfaces.estimate(
        atoms.positions, in_frame_of(atoms, structures), "Å", atoms, of="forces", note="positions"
    )
    energy = surfaces.estimate(
        both.driving.energy + enthalpy, energies, "eV", atoms, of="energy", note="enthalpy" if pressure else "energy"
    )
    return ErrorBars(structures, energy, positions, method, why, found.softest, converged), notes


def _preconditioner(inverse: Inverse | None) -> Callable[[np.ndarray], np.ndarray]:
    """H₀⁻¹ along free motions, for draws on their own: |H̄| with soft coordinates stiffened, or what suits most bonds."""
    return (lambda g: g / STIFF) if inverse is None else (lambda g: inverse.stiff(g, FLOOR))


def _fault(
    surfaces: Surfaces,
    atoms: Atoms,
    free: FreeMotion,
    gradients: np.ndarray,
    shifts: np.ndarray,
    softest: float,
    widening: float,
    inverse: Inverse | None,
    pressure: float,
) -> str | None:
    """Why a first order is not to be trusted, or None."""
    if not free.linear:
        return "constraints whose allowed displacements are curved"
    if softest < SOFT:
        return f"a soft or negative coordinate, {softest:.2g} eV/Å²"
    n = len(atoms)
    moved = shifts[:, : 3 * n].reshape(len(shifts), n, 3)
    spread = (widening if np.isfinite(widening) else 1.0) * np.sqrt(moved.var(axis=0, ddof=1).mean(axis=1).max())
    if spread > SPREAD:
        return f"a spread of {spread:.2g} Å"
    own = surfaces.each([displaced(atoms, shift) for shift in shifts], stress=free.strain)
    left = gradient(own, atoms, strain=free.strain, pressure=pressure)
    # without a matrix forces stand for the steps that they would make
    steps, before = (free.down(left), free.down(gradients)) if inverse is None else (inverse(left), shifts)
    share = float(np.sqrt((steps**2).sum() / max((before**2).sum(), 1e-300)))
    if share > LEFT_OUT:
        return f"forces of the draws in their predicted minima would move them on by {100 * share:.0f} % of the way"
    return None


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
