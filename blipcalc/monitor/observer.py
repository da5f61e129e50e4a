"""Define ``UncertaintyMonitor``, which checks the uncertainty during a run and acts when a prediction is too uncertain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.md import MolecularDynamics
from ase.optimize.optimize import BaseDynamics, Optimizer

from blipcalc.calculators.snapshot import annotate, clear_annotations, clear_stale_annotations
from blipcalc.core.degrees_of_freedom import DegreesOfFreedom, degrees_of_dynamics
from blipcalc.errors import ConfigurationError, MonitorError
from blipcalc.monitor.actions import Action, Done, Record, Remembering, actions_of, flag, halt
from blipcalc.monitor.criteria_set import CriteriaSet, name_of
from blipcalc.monitor.decisions import CriterionFunction, Decision, Reading, gravest
from blipcalc.monitor.events import EventLog, decision_of, plain
from blipcalc.monitor.fault_checks import FaultCheck, default_fault_checks
from blipcalc.monitor.history import History
from blipcalc.monitor.history_plot import plot_history
from blipcalc.monitor.limits import Limits
from blipcalc.monitor.readings import check_sensor, take_reading, time_fs, watched_atoms
from blipcalc.monitor.stuck import StuckUncertainty
from blipcalc.settings import path_of, switch, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Status = Literal["ready", "running", "halted", "stopped", "finished"]


class UncertaintyMonitor:
    """Check the uncertainty of a run every k steps, from step 0 on, and flag, record or halt.

    Under the calibrated criterion the run continues while q_frame · max_i σ_i ≤ ε_tol; NaN is a breach, and so are positions,
    energies and forces that are not finite.  Atoms that cannot move are not watched.  Where the network at the mean weights is
    the driving potential, the draws are evaluated at checks only.

    The monitor runs before every other observer, so that trajectory and log end with the breached frame if their interval has
    them write at that step; ``record_to`` stores that frame in any case.  A halt does not change the dynamics:
    ``dynamics.run`` continues from there.  Each check decides independently, so a run continued during a breach halts again at
    its next check (at step 0: at once), unless :meth:`resume` was called.

    | symbol | variable |
    |---|---|
    | ε_tol | ``tolerance``, eV/Å, on the norm of the force error of the worst atom |
    | q_frame | from the calculator's calibration at ``level`` |
    | σ_i | ``atom_std`` |

    Parameters
    ----------
    dynamics : MD or optimiser, on ``Atoms`` or a filter around them; None to :meth:`attach` later
    tolerance, level : of the calibrated criterion
    threshold : instead of a tolerance, eV/Å on ``atom_std`` itself: a number, or {symbol: number}
    limits : instead of either, limits with a stated rate of false alarms, or their file (``blipcalc check``); MD only
    criteria : further criteria, see :mod:`blipcalc.monitor.criteria`; a breach of one is enough
    every : k, steps between checks; None: each step, or what ``limits`` were made for
    on_breach : ``"flag"``, ``"record"``, ``"rollback"``, ``"reference"``, ``"halt"`` or functions of (decision, atoms, dynamics),
        in this order, or ``Record``, ``RollBack`` and ``AskReference`` of :mod:`blipcalc.monitor.actions` with settings; None
        flags and halts, and records if ``record_to`` is given.  A flag is raised once per sequence of breached checks; a breach
        that is only a warning does not halt, and is recorded once
    record_to : file to which breached frames are appended, see :func:`blipcalc.io.write`
    fault_checks : of :mod:`blipcalc.monitor.fault_checks`, made at every step regardless of ``every``; None: in MD, a leap, a
        jump of the kinetic energy, a σ that does not change while atoms move (:mod:`blipcalc.monitor.stuck`, at checks) and, for
        a model with a domain, atoms closer than half of the closest in the training data.  A σ of zero on all atoms that can
        move while their forces are not zero halts in any case
    self_test : on attaching, displace the atoms of a copy and require that the uncertainty changes; one evaluation more
    events : file for warnings, halts and actions, one line of JSON each
    annotate : put the uncertainties of checked frames into ``atoms.info``, from where ASE's ``.traj`` writer stores them
    calculator : source of the uncertainties instead of ``atoms.calc``, which may be a sum that contains it

    Raises
    ------
    ConfigurationError : contradictory or missing settings
    MonitorError : a calculator without ``atom_std``, a dynamics of something other than atoms
    CalibrationError : a tolerance for a calculator without calibration
    LimitsError : limits for another calculator, or for another interval between checks

    Examples
    --------
    >>> monitor = UncertaintyMonitor(dynamics, tolerance=0.5, record_to="breaches.traj")
    >>> dynamics.run(10_000)
    >>> monitor.status, monitor.decision.reason
    """

    def __init__(
        self,
        dynamics: BaseDynamics | None = None,
        *,
        tolerance: float | None = None,
        level: float = 0.95,
        threshold: float | Mapping[str, float] | None = None,
        limits: Limits | str | Path | None = None,
        criteria: Sequence[CriterionFunction] = (),
        every: int | None = None,
        on_breach: Sequence[str | Action] | str | Action | None = None,
        record_to: str | Path | None = None,
        fault_checks: Sequence[FaultCheck] | None = None,
        self_test: bool = False,
        events: str | Path | None = None,
        annotate: bool = False,
        calculator: Calculator | None = None,
    ) -> None:
        every = None if every is None else whole("every", every, 1, what="number of steps")
        self._faults_by_default = fault_checks is None
        self.rules = CriteriaSet(
            tolerance, level, threshold, limits, criteria, () if fault_checks is None else fault_checks
        )
        self._every, self.every = every, 1 if every is None else every
        self.annotate, self.actions = switch("annotate", annotate), actions_of(on_breach, record_to, calculator)
        self._remembering = [action for action in self.actions if isinstance(action, Remembering)]
        self.dynamics: BaseDynamics | None = None
        self.degrees: DegreesOfFreedom | None = None
        self.history = History()
        self.decision: Decision | None = None
        self.halts: list[int] = []
        self.halted = False
        self._calculator = calculator
        self.self_test = switch("self_test", self_test)
        self.events = None if events is None else EventLog(path_of("events", events))
        self._planned = 0  # the last step of the run, unless it is halted
        self._acted_on: tuple[int, np.ndarray] | None = None
        if dynamics is not None:
            self.attach(dynamics)

    def __repr__(self) -> str:
        limit = "" if self.limit is None else f", limit on atom_std {self.limit:.3g} eV/Å"
        return f"UncertaintyMonitor({self.status}, every {self.every} steps{limit}; {self.history!r})"

    def attach(self, dynamics: BaseDynamics, degrees: DegreesOfFreedom | None = None) -> UncertaintyMonitor:
        """Watch a dynamics, before all of its observers, and return the monitor.

        degrees : of freedom of the motion, if already counted
        """
        if self.dynamics is not None:
            raise MonitorError("this monitor watches a dynamics already; make another, or detach it")
        self.rules.check_symbols(watched_atoms(dynamics.atoms).get_chemical_symbols())
        if self.rules.limits is not None:
            if not isinstance(dynamics, MolecularDynamics):
                raise ConfigurationError(
                    "limits= are rates per ns of MD; for an optimiser give tolerance= or threshold="
                )
            self.every = self.rules.limits.every(dynamics.dt / units.fs, self._every)
        for action in self._remembering:
            action.prepare(dynamics)
        self.dynamics, self.degrees = dynamics, degrees
        try:
            self.rules.fit(self.calculator)
            if self._faults_by_default and isinstance(dynamics, MolecularDynamics):
                self.rules.fault_checks, self.rules.still = (
                    default_fault_checks(self.calculator, degrees),
                    StuckUncertainty(),
                )
            if self.self_test:
                check_sensor(self.calculator, dynamics.atoms)
        except Exception:
            self.dynamics = None
            raise
        dynamics.insert_observer(self, position=0, interval=1)
        return self

    def detach(self) -> None:
        """Stop watching the dynamics; history and decision are kept."""
        if self.dynamics is not None:
            self.dynamics.observers[:] = [entry for entry in self.dynamics.observers if entry[0] is not self]
            if self.annotate:
                clear_annotations(self.atoms)
            self.dynamics = None

    @property
    def watched(self) -> BaseDynamics:
        """Return the watched dynamics; raises :class:`MonitorError` without one."""
        if self.dynamics is None:
            raise MonitorError("the monitor is not attached to a dynamics")
        return self.dynamics

    @property
    def atoms(self) -> Atoms:
        """Return the watched structure."""
        return watched_atoms(self.watched.atoms)

    @property
    def calculator(self) -> Calculator:
        """Return the calculator from which uncertainties are read."""
        return self._calculator if self._calculator is not None else self.atoms.calc

    @property
    def limit(self) -> float | None:
        """Return the largest ``atom_std`` that passes, eV/Å; None if the criteria have no single limit."""
        return self.rules.limit

    @property
    def status(self) -> Status:
        """Return the status of the run, which the return value of ``dynamics.run`` does not distinguish.

        ``ready`` before the first check, ``halted`` by the monitor, ``stopped`` early by other code, ``finished`` when the run
        completed or converged, else ``running`` (also after an exception).
        """
        if self.halted:
            return "halted"
        if self.dynamics is None or not len(self.history):
            return "finished" if len(self.history) else "ready"
        if self._converged():
            return "finished"
        if self.halts and self.halts[-1] == self.dynamics.nsteps:
            return "running"  # acknowledged, and about to go on
        if self.dynamics.nsteps < self.dynamics.max_steps:
            return "running"
        return "finished" if self.dynamics.nsteps >= self._planned else "stopped"

    def resume(self) -> None:
        """Continue a halted run: the criteria that halted it do not halt again until they have passed once.

        Their breaches are still flagged, recorded and kept in the history.  Other criteria, fault checks and values that are not
        finite still halt the run.
        """
        self.halted = False
        self.rules.excuse()

    def plot(self, path: str | Path | None = None, *, title: str = "") -> Figure:
        """Draw the largest ``atom_std`` against time, with threshold and halts."""
        return plot_history(self.history, self.limit, path, halts=self.halts, title=title)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the monitor as plain values; the user's functions by their names."""
        own = {"every": self.every, "actions": [name_of(action) for action in self.actions]}
        return self.rules.settings() | own

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the state needed to continue a run, without the history, as plain values and arrays."""
        values: dict[str, Any] = {
            "halted": self.halted,
            "halts": list(self.halts),
            "verdict": None if self.decision is None else plain(self.decision),
            "rules": self.rules.state(),
            "actions": [],
        }
        arrays: dict[str, np.ndarray] = {}
        for k, action in enumerate(self._remembering):
            memory, more = action.state(self.atoms)
            values["actions"].append([name_of(action), memory])
            arrays |= {f"{k}/{name}": value for name, value in more.items()}
        return values, arrays

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Restore :meth:`state`, with the structure at that step; raises :class:`MonitorError` for other criteria or actions."""
        memories = values.get("actions", [])
        if [name_of(action) for action in self._remembering] != [kind for kind, _ in memories]:
            raise MonitorError("the checkpoint is of a monitor with other actions")
        self.rules.restore(values["rules"], self.atoms, self.watched.nsteps)
        self.halted, self.halts = values["halted"], list(values["halts"])
        self.decision = None if values["verdict"] is None else decision_of(values["verdict"])
        for k, (action, (_, memory)) in enumerate(zip(self._remembering, memories, strict=True)):
            more = {name.partition("/")[2]: v for name, v in arrays.items() if name.startswith(f"{k}/")}
            action.restore(memory, more, self.atoms)

    def __call__(self) -> None:
        """Check the current step; called by ASE."""
        dynamics = self.watched
        if dynamics.nsteps < dynamics.max_steps:
            self._planned = dynamics.max_steps
        if self.annotate:
            clear_stale_annotations(self.atoms)
        found, before = self.rules.ask_faults(self.atoms, dynamics.nsteps), self.decision
        if dynamics.nsteps % self.every:
            if any(decision.breached for decision in found):
                self.decision = gravest(found)
                self._act(self.decision, _is_onset(before, self.decision))
            return
        self.rules.fit(self.calculator)
        reading, energy = take_reading(
            self.calculator, dynamics.atoms, dynamics.nsteps, with_pressure=self.rules.ask_pressure
        )
        decision, excused = self.rules.judge(reading, found)
        self.decision = decision
        if self.annotate:
            annotate(self.atoms, self.calculator)
        self._keep(reading, energy, decision)
        if decision.breached:
            self._act(decision, _is_onset(before, decision), excused)
            if decision.halts:
                return
        else:
            if before is not None and before.breached:
                self._log("passed", decision)
            self.halted = False
        for action in self._remembering:
            self._take(action.passed(self.atoms, dynamics.nsteps), decision)
        if self._remembering:
            self.rules.keep()

    def abort(self, reason: str) -> bool:
        """Act on a value that is not finite, found between two checks; return whether an action let the run continue."""
        self.decision = Decision(True, (), math.nan, 0.0, "", reason, self.watched.nsteps, is_hard=True)
        return self._act(self.decision, onset=True)

    def _act(self, decision: Decision, onset: bool, excused: bool = False) -> bool:
        """Run the actions on a decision; return whether one let the run continue, so that the later ones were skipped."""
        self.halted, seen, dynamics = False, self._seen_before(), self.watched
        if onset and not decision.halts:
            self._log("warning", decision)
        for action in self.actions:
            if action is halt:
                if not decision.halts or excused:
                    continue
                self.halted = True
                if dynamics.nsteps not in self.halts:
                    self.halts.append(dynamics.nsteps)
                self._log("halt", decision)
            elif (action is flag and not onset) or (
                isinstance(action, Record) and (seen or not (onset or decision.halts))
            ):
                continue
            if isinstance(action, Remembering) and excused:
                continue
            if self._take(action(decision, self.atoms, dynamics), decision):
                return True
        return False

    def _take(self, done: Any, decision: Decision) -> bool:
        """Update monitor and results after an action that changed the run; return whether the run continues."""
        if not isinstance(done, Done):
            return False
        if done.moved:
            self.rules.roll_back(self.atoms, self.watched.nsteps)
        # observers that write later must find results of the current structure and driving potential
        self.calculator.get_property("atom_std", self.atoms)
        self.atoms.get_forces()
        if self.annotate:
            annotate(self.atoms, self.calculator)
        if done.event:
            self._log(done.event, decision)
        return done.goes_on

    def _log(self, event: str, decision: Decision) -> None:
        if self.events is not None:
            self.events.write(event, decision, self.atoms, self.watched)

    def _seen_before(self) -> bool:
        """Return whether this frame was acted on before: a run continued at step 0 checks it again."""
        last, now = self._acted_on, (self.watched.nsteps, self.atoms.positions.copy())
        self._acted_on = now
        return last is not None and last[0] == now[0] and np.array_equal(last[1], now[1], equal_nan=True)

    def _keep(self, reading: Reading, energy: float, decision: Decision) -> None:
        counted = reading.atom_std[reading.mask]
        self.history.append(
            step=reading.step,
            time_fs=time_fs(self.watched),
            temperature_K=self._temperature_K(),
            energy=energy,
            max_atom_std=reading.max_atom_std,
            worst_atom=reading.worst_atom,
            mean_atom_std=float(counted.mean()) if counted.size else 0.0,
            energy_std=reading.energy_std,
            max_latent_distance=reading.max_latent_distance,
            pressure_GPa=reading.pressure_GPa,
            pressure_std_GPa=reading.pressure_std_GPa,
            breached=decision.breached,
        )

    def _temperature_K(self) -> float:  # the unit keeps its capital
        """Return the temperature in MD of all atoms, K, else NaN; degrees of freedom are counted once atoms move."""
        dynamics = self.dynamics
        if not (isinstance(dynamics, MolecularDynamics) and dynamics.atoms is self.atoms):
            return math.nan
        if not self.atoms.get_momenta().any():
            return math.nan
        if self.degrees is None:
            self.degrees = degrees_of_dynamics(dynamics)
        return self.degrees.temperature_K(self.atoms)

    def _converged(self) -> bool:
        dynamics = self.dynamics
        if not isinstance(dynamics, Optimizer) or dynamics.fmax is None:
            return False
        return bool(dynamics.optimizable.converged(dynamics.optimizable.get_gradient(), dynamics.fmax))


def _is_onset(before: Decision | None, now: Decision) -> bool:
    """Return whether a sequence of breaches begins here, or changes from a warning to a halt."""
    return before is None or not before.breached or (now.halts and not before.halts)
