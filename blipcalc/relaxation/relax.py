"""Relax a structure to a minimum, with error bars from the per-draw minima."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, get_args

from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import Trajectory
from ase.optimize.optimize import Optimizer

from blipcalc.calculators.draw_surfaces import Surfaces, gradient
from blipcalc.calculators.snapshot import snapshot
from blipcalc.core.validate import check_structure
from blipcalc.errors import ConfigurationError
from blipcalc.files.locks import held
from blipcalc.monitor.actions import Action
from blipcalc.monitor.decisions import CriterionFunction
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.monitor.run_criteria import LatentDistanceThreshold
from blipcalc.relaxation.cell import Cell, cell_filter, response_of, rounding_is_no_news
from blipcalc.relaxation.coordinates import free_motion
from blipcalc.relaxation.error_bars import How, Minimum, find_bars
from blipcalc.relaxation.extrapolation import far_atoms
from blipcalc.relaxation.result import Relaxed
from blipcalc.relaxation.stopping import descend, optimizer_of
from blipcalc.settings import choice, number, path_of, several, whole

Arguments = ParamSpec("Arguments")


def _alone_with_its_trajectory(function: Callable[Arguments, Relaxed]) -> Callable[Arguments, Relaxed]:
    """Return the function, which then holds a lock on its trajectory file."""

    @functools.wraps(function)
    def holding(*args: Arguments.args, **settings: Arguments.kwargs) -> Relaxed:
        trajectory = settings.get("trajectory")
        with contextlib.nullcontext() if trajectory is None else held(path_of("trajectory", trajectory)):
            return function(*args, **settings)

    return holding


@_alone_with_its_trajectory
def relax(
    atoms: Atoms,
    *,
    optimizer: str | type[Optimizer] = "BFGS",
    fmax: float = 0.01,
    z: float = 0.3,
    steps: int = 500,
    cell: Cell = False,
    pressure_GPa: float = 0.0,
    error_bars: How | None = "auto",
    tolerance: float | None = None,
    threshold: float | Mapping[str, float] | None = None,
    outside: float | None = None,
    criteria: Sequence[CriterionFunction] = (),
    on_breach: Sequence[str | Action] | str | Action = "flag",
    trajectory: str | Path | None = None,
    logfile: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Relaxed:
    """Relax a structure on the driving potential, with error bars from the per-draw minima.

    The relaxation stops at max(fmax, z σ_F), and reports which of them (:mod:`blipcalc.relaxation.stopping`).  For error bars
    (:mod:`blipcalc.relaxation.error_bars`) a Newton step removes the remaining forces.  Error bars follow from the implicit
    function theorem (linear response) if there is no soft coordinate, the spread is below 0.05 Å, and the forces of the draws
    at their predicted minima are small; else every draw is relaxed.

    Parameters
    ----------
    atoms : with a BayesianCalculator, or a CombinedCalculator around one; moved in place, with a snapshot in the result.
        Constraints are respected.  Without error bars any calculator can be used
    optimizer : name or class of one of ASE's, with ``options``
    fmax, z : eV/Å; z = 0 stops at fmax, and so does a calculator without ``atom_std``
    steps : most steps of the optimiser
    cell : False; True; ``"isotropic"``; ``"shape"`` at fixed volume; a mask of six; or one of ASE's filters around ``atoms``
    pressure_GPa : external pressure on a variable cell
    error_bars : ``"auto"``; ``"response"`` or ``"relax"`` regardless of the checks; None for none
    tolerance, threshold, criteria, on_breach : settings of an :class:`~blipcalc.monitor.observer.UncertaintyMonitor` of every
        step; a breach is only flagged by default, since initial structures are often far from a minimum
    outside : limit on the latent distance at every step; None checks the final structure only
    trajectory, logfile : of the optimiser; the Newton step is the last frame

    Raises
    ------
    ConfigurationError : contradictory settings, another calculator; DrawsError : error bars of fewer than two draws
    FileBusyError : another process writes to the trajectory
    StructureError : and its subclasses, for a structure that cannot be evaluated

    Examples
    --------
    >>> atoms.calc = BayesianCalculator("rmd17")
    >>> relaxed = blipcalc.relax(atoms)
    >>> relaxed.table()
    >>> relaxed.distance(0, 1).std
    """
    fmax, z = number("fmax", fmax, above=0.0), number("z", z, above=-1e-300)
    steps = whole("steps", steps, 0)
    choice("error_bars", error_bars, (*get_args(How), None))
    if not isinstance(atoms.calc, Calculator):
        raise ConfigurationError(f"expected atoms with a calculator, got {type(atoms.calc).__name__}")
    check_structure(atoms)
    surfaces = Surfaces(atoms.calc) if error_bars is not None else None
    z = z if "atom_std" in atoms.calc.implemented_properties else 0.0
    around = cell_filter(atoms, cell, pressure_GPa)
    response = None if around is None else response_of(around)
    log = {"logfile": None if logfile is None else str(logfile)}
    log["trajectory"] = None if trajectory is None else str(trajectory)
    dynamics = optimizer_of(optimizer, atoms if around is None else around, log, options)
    rules = [
        *several("criteria", criteria, "a list of criteria"),
        *([] if outside is None else [LatentDistanceThreshold(outside)]),
    ]
    with contextlib.closing(dynamics), contextlib.nullcontext() if response is None else rounding_is_no_news():
        monitor = None
        if rules or tolerance is not None or threshold is not None:
            monitor = UncertaintyMonitor(
                dynamics, tolerance=tolerance, threshold=threshold, criteria=rules, on_breach=on_breach
            )
        descent = descend(dynamics, atoms, response, fmax=fmax, z=z, steps=steps)
    if surfaces is None or error_bars is None or not descent.done:
        return Relaxed(snapshot(atoms), descent, None, (*far_atoms(atoms), *_breached(monitor)))
    strain = None if response is None else response.strains
    (both,) = surfaces([atoms], stress=strain is not None)
    free = free_motion(atoms, gradient(both.draws, atoms), strain, atoms_move=response is None or response.atoms_move)
    minimum = Minimum(surfaces, atoms, both, free, 0.0 if response is None else response.pressure)
    before = atoms.positions.copy(), atoms.cell.array.copy()
    bars, said = find_bars(minimum, error_bars)
    moved = (atoms.positions != before[0]).any() or (atoms.cell.array != before[1]).any()
    if trajectory is not None and moved:
        with Trajectory(str(trajectory), "a") as path:  # its last frame is the structure of the result
            path.write(atoms, forces=atoms.get_forces())
    return Relaxed(snapshot(atoms), descent, bars, (*said, *far_atoms(atoms), *_breached(monitor)))


def _breached(monitor: UncertaintyMonitor | None) -> tuple[str, ...]:
    """Return a note on the breaches of a monitor; empty without one."""
    if monitor is None or not monitor.history["breached"].any():
        return ()
    return (f"the monitor was breached at {monitor.history['breached'].sum()} of {len(monitor.history)} steps",)
