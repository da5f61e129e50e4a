"""Run MD under an uncertainty monitor, with any of ASE's integrators and a folder from which a killed run continues."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics
from tqdm.auto import tqdm

from blipcalc.calculators.bayesian import DEVIATIONS
from blipcalc.calculators.snapshot import snapshot
from blipcalc.core.degrees_of_freedom import remove_conserved, thermalize
from blipcalc.core.signature import Signature
from blipcalc.core.validate import check_motion, check_structure
from blipcalc.errors import ConfigurationError, StructureError
from blipcalc.files.checksums import forget_sums
from blipcalc.files.run_folder import Checkpoints, alone
from blipcalc.io import keeps_sums, write
from blipcalc.md.integrators import (
    GLOBAL,
    NPT,
    WITH_COURSE,
    IntegratorConfig,
    counted,
    integrator,
    set_temperature,
)
from blipcalc.md.restart import check_calculator, environment, identity, provenance, restore, state_of
from blipcalc.md.run_files import EVENTS, HISTORY, STEP, SUMMARY, TRAJECTORY, RunFiles, files_held
from blipcalc.md.signals import told_of_signals
from blipcalc.md.summary import MDSummary, StoredCheckpoint, write_summary
from blipcalc.monitor.criteria import PressureTolerance
from blipcalc.monitor.monitor_settings import MonitorSettings
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.settings import number, path_of, switch, whole

#: settings that may change when a run is continued
MAY_CHANGE = {"time_ps", "checkpoint_every", "keep_draws"}
#: upper bound on the steps of a run
MOST_STEPS = 1e12


def run_md(
    atoms: Atoms,
    *,
    time_ps: float,
    temperature_K: float | Sequence[tuple[float, float]] = 300.0,
    seed: int = 0,
    folder: str | Path | None = None,
    checkpoint_every: int = 1000,
    go_on: bool = False,
    trajectory: str | Path | None = None,
    write_every: int = 20,
    observers: Sequence[Callable[[MolecularDynamics], Callable[[], Any]]] = (),
    progress: bool = True,
    ensemble: str = "langevin",
    timestep_fs: float = 0.5,
    friction_per_fs: float = 0.01,
    damping_fs: float = 100.0,
    pressure_GPa: float = 0.0,
    pressure_damping_fs: float = 1000.0,
    pressure_tolerance_GPa: float | None = 0.1,
    keep_draws: bool = False,
    **monitor: Unpack[MonitorSettings],
) -> tuple[MDSummary, UncertaintyMonitor]:
    """Run MD of a structure with a calculator, watched by a monitor; return the summary and the monitor.

    Momenta are drawn at the (first) temperature if the structure has none.  For global thermostats (``bussi``, ``nose-hoover``,
    ``npt``, ``npt-cell``) conserved total and angular momenta are removed, since they would count as heat.  Temperatures are
    those of the moving degrees of freedom (:mod:`blipcalc.core.degrees_of_freedom`).  SIGTERM and Ctrl-C end the run after a
    whole step.

    Parameters
    ----------
    atoms : moved in place
    time_ps : length of the run
    temperature_K : of the thermostat, or a course of points (time in ps, K), linear in between (langevin and bussi)
    seed : of momenta and thermostat
    folder : run folder with trajectory, history, events, summary and checkpoints.  The same call again continues from the last
        checkpoint, bit for bit on a CPU, and to a longer ``time_ps`` if that was changed; without a folder nothing is stored.  A
        run is identified by its initial structure, with momenta if given, and by its calculator (:mod:`blipcalc.core.signature`);
        a calculator without an identity is evaluated once near the start
    checkpoint_every : steps between checkpoints; one more is written at the end of the run
    go_on : continue past the halt of the run in this folder, also under other limits; otherwise such a run stays halted
    trajectory : file for every ``write_every``-th frame, see :func:`blipcalc.io.write`, with the uncertainties that the
        calculator holds for it: with the network at the mean weights at checks only, so make it a multiple of ``every``.  The
        frame that halted the run is the last one.  ``info`` holds ``step`` and ``time_fs``
    observers : functions of the dynamics that make further observers, such as
        ``lambda dynamics: LabelAudit(dynamics, reference)``; called at every check, after the monitor.  Checkpoints hold the
        memory of observers with ``state`` and ``restore``
    progress : show a bar
    ensemble, timestep_fs, friction_per_fs, damping_fs, pressure_GPa, pressure_damping_fs : see :mod:`blipcalc.md.integrators`
    pressure_tolerance_GPa : warn in NPT if the error bar of the pressure is larger; None: do not evaluate it
    keep_draws : evaluate the draws at every written frame, also without a check: variances, and the energies of the draws for
        thermal averages (:func:`blipcalc.average`).  The run itself stays the same, bit for bit
    monitor : settings of :class:`~blipcalc.monitor.observer.UncertaintyMonitor`: ``tolerance=…``, ``limits=…``, ``every=…``, …;
        ``self_test`` is on by default

    Returns
    -------
    the summary, and the monitor with its history

    Raises
    ------
    ConfigurationError : impossible settings, or a folder of another run
    MonitorError : an uncertainty that does not change when atoms move
    RunFolderBusyError : a folder in use by another process; FileBusyError : a file to which another process writes
    """
    config = IntegratorConfig.of(
        {
            "ensemble": ensemble,
            "timestep_fs": timestep_fs,
            "friction_per_fs": friction_per_fs,
            "damping_fs": damping_fs,
            "pressure_GPa": pressure_GPa,
            "pressure_damping_fs": pressure_damping_fs,
        }
    )
    course = _course(temperature_K, ensemble)
    time_ps = number("time_ps", time_ps, above=0.0)
    steps = time_ps * 1000.0 / config.timestep_fs
    if not 1 <= round(min(steps, MOST_STEPS)) < MOST_STEPS:
        raise ConfigurationError(
            f"time_ps={time_ps} is {steps:.3g} steps of {config.timestep_fs} fs; expected 1 or more, fewer than {MOST_STEPS:g}"
        )
    write_every = whole("write_every", write_every, 1, what="number of steps")
    checkpoint_every = whole("checkpoint_every", checkpoint_every, 1, what="number of steps")
    seed, keep_draws = whole("seed", seed, 0), switch("keep_draws", keep_draws)
    check_structure(atoms)
    check_motion(atoms)
    folder = None if folder is None else path_of("folder", folder)
    trajectory = None if trajectory is None else path_of("trajectory", trajectory)
    monitor.setdefault("self_test", True)
    if folder is not None:
        trajectory = trajectory or folder / TRAJECTORY
        monitor.setdefault("events", folder / EVENTS)
    has_bar = atoms.calc is not None and "pressure_std" in atoms.calc.implemented_properties
    if ensemble in NPT and has_bar and pressure_tolerance_GPa is not None:
        monitor["criteria"] = [*monitor.get("criteria", ()), PressureTolerance(pressure_tolerance_GPa)]
    with contextlib.nullcontext() if folder is None else alone(folder):
        run = _Run(atoms, config, course, seed, folder, trajectory, write_every, monitor)
        run.observers = [make(run.dynamics) for make in observers]
        run.settings |= {"time_ps": time_ps, "checkpoint_every": checkpoint_every, "keep_draws": keep_draws}
        if keep_draws:
            run.keep_draws()
        with files_held(folder, run.trajectory, run.monitor):
            run.go(round(steps), checkpoint_every, go_on, progress)
        return run.summary(), run.monitor


def _course(temperature_K: float | Sequence[tuple[float, float]], ensemble: str) -> np.ndarray:
    """Return the course of temperatures as (points, 2), time in ps and K."""
    try:
        course = np.array([(0.0, temperature_K)] if np.isscalar(temperature_K) else temperature_K, dtype=float)
    except (TypeError, ValueError):
        course = np.empty(0)
    if course.ndim != 2 or course.shape[1] != 2 or not (np.isfinite(course).all() and (course[:, 1] > 0).all()):
        raise ConfigurationError(
            f"temperature_K={temperature_K!r}; expected a positive number of K, or points (time in ps, K)"
        )
    if len(course) > 1 and ensemble not in WITH_COURSE:
        raise ConfigurationError(f"a course of temperatures is for {' and '.join(WITH_COURSE)}, not for {ensemble}")
    return course


class _Run:
    """MD run from its start, or from its last checkpoint, to its end."""

    def __init__(
        self,
        atoms: Atoms,
        config: IntegratorConfig,
        course: np.ndarray,
        seed: int,
        folder: Path | None,
        trajectory: str | Path | None,
        write_every: int,
        monitor: MonitorSettings,
    ) -> None:
        self.atoms, self.config, self.course, self.folder = atoms, config, course, folder
        self.trajectory, self.write_every = None if trajectory is None else Path(trajectory), write_every
        self.seconds, self._signal, self._steps = 0.0, 0, 0
        self._compute: tuple[str, ...] = ()
        self.settings = config.model_dump() | {"course": course.tolist(), "seed": seed, "write_every": write_every}
        self.settings |= {"trajectory": None if trajectory is None else Path(trajectory).name}
        self.identity = Signature("") if folder is None else identity(atoms)
        self._start = atoms.copy()
        self._start.calc = atoms.calc
        self.rng = np.random.default_rng(seed)
        self.degrees = counted(atoms, config.ensemble)
        if not atoms.get_momenta().any():
            thermalize(atoms, course[0, 1], self.degrees, self.rng)
        elif config.ensemble in GLOBAL:
            remove_conserved(atoms, self.degrees)
        self.dynamics: MolecularDynamics = integrator(atoms, config, course[0, 1], self.rng, self.degrees)
        self.observers: list[Callable[[], Any]] = []
        self.monitor = UncertaintyMonitor(**monitor).attach(self.dynamics, self.degrees)
        self.settings["monitor"] = self.monitor.settings()
        self.files = None if folder is None else RunFiles(folder, self.trajectory, self.monitor)

    def keep_draws(self) -> None:
        """Store the energies of the draws in every frame; raises :class:`ConfigurationError` for a calculator without them."""
        calculator = self.monitor.calculator
        if DEVIATIONS not in calculator.implemented_properties:
            raise ConfigurationError(
                f"keep_draws=True: {type(calculator).__name__} gives no {DEVIATIONS!r}; expected a BayesianCalculator with "
                "n_draws ≥ 2, or a CombinedCalculator around one"
            )
        self._compute = (DEVIATIONS,)

    def go(self, steps: int, checkpoint_every: int, go_on: bool, progress: bool) -> None:
        """Run to a total number of steps, unless the run ends earlier."""
        dynamics = self.dynamics
        checkpoints, files = None, self.files
        if files is not None:
            may_change = MAY_CHANGE | ({"monitor"} if go_on else set())
            checkpoints = Checkpoints(
                files.folder,
                self.identity.name,
                self.settings,
                may_change,
                "MD",
                "start (positions, momenta, cell) or calculator",
                StoredCheckpoint,
            )
            self._resume(checkpoints, files, go_on)
            if self.monitor.halted and go_on:
                self.monitor.resume()
            if self.monitor.halted:
                return
        elif self.trajectory is not None:
            self.trajectory.unlink(missing_ok=True)
            forget_sums(self.trajectory)
        if self.trajectory is not None:
            self.trajectory.parent.mkdir(parents=True, exist_ok=True)
        for observer in self.observers:
            dynamics.attach(observer, self.monitor.every)
        if len(self.course) > 1:
            dynamics.attach(self._follow)
        if self.trajectory is not None:
            dynamics.attach(self._write, 1, self.trajectory)
        bar = tqdm(total=steps, initial=dynamics.nsteps, unit="step", disable=not progress)
        if progress:
            dynamics.attach(self._advance, self.monitor.every, bar)
        if checkpoints is not None:
            dynamics.attach(self._save_after_a_step, checkpoint_every, checkpoints, files)
        dynamics.attach(self._end_on_signal)
        began, before = time.perf_counter(), self.seconds
        self._clock = lambda: before + time.perf_counter() - began
        with bar, told_of_signals(self._received):
            is_whole = self._run(steps)
            bar.update(dynamics.nsteps - bar.n)
        self.seconds = self._clock()
        self._steps = steps
        if checkpoints is not None and files is not None:
            if is_whole:
                self._save(checkpoints, files)
            # in full even if the last checkpoint is earlier: the checks before a value that is not finite help to explain it
            self.monitor.history.keep_csv(files.folder / HISTORY)
            write_summary(files.folder / SUMMARY, self.summary(), self._record())

    def _run(self, steps: int) -> bool:
        """Run to a number of steps; return whether the run ended after a whole step, not by a value that is not finite."""
        while self.dynamics.nsteps < steps:
            try:
                self.dynamics.run(steps - self.dynamics.nsteps)
                return True
            except StructureError as error:
                is_back = self.monitor.abort(str(error))
                if self.monitor.halted:
                    return False
                if not is_back:  # no action is a halt
                    raise
        return True

    def summary(self) -> MDSummary:
        """Return the summary of the run."""
        watch, history = self.monitor, self.monitor.history
        decision = watch.decision if watch.halted else None
        return MDSummary(
            status="stopped"
            if self._signal and not watch.halted and self.dynamics.nsteps < self._steps
            else watch.status,
            steps=self.dynamics.nsteps,
            time_ps=self.dynamics.nsteps * self.config.timestep_fs / 1000.0,
            wall_seconds=self.seconds,
            temperature_K=float(np.mean(history["temperature_K"])) if len(history) else float("nan"),
            max_atom_std=float(np.max(history["max_atom_std"])) if len(history) else float("nan"),
            limit=watch.limit,
            reason=None if decision is None else decision.reason,
            is_finite=True if decision is None else bool(np.isfinite(decision.value)),
        )

    def _record(self) -> dict[str, Any]:
        """Return the identity and settings of the run for its summary, under the names used in its checkpoints."""
        return {
            "identity": self.identity.name,
            "probe": self.identity.numbers,
            "config": {key: value for key, value in self.settings.items() if key != "checkpoint_every"},
            "environment": environment(self.atoms.calc),
            "provenance": provenance(self.atoms.calc),
        }

    def _resume(self, checkpoints: Checkpoints, files: RunFiles, go_on: bool) -> None:
        """Restore the last checkpoint and cut the files back to it; without a checkpoint, start new files."""
        state = checkpoints.load()
        if state is None:
            files.begin()
            return
        before = Signature(self.identity.name, state.figures["probe"])
        check_calculator(before, self.identity, self._start, files.folder)
        step, then = state.figures["step"], state.figures.get("frames", {})
        if step == 0 and (go_on or not state.figures["monitor"]["halted"]):
            step, then = -1, None  # step 0 is checked and written again
        files.go_back(step, then, accept_gaps=go_on)
        restore(state, self.dynamics, self.rng, self.monitor, self.observers)
        self.seconds = state.figures["seconds"]

    def _save_after_a_step(self, checkpoints: Checkpoints, files: RunFiles) -> None:
        if self.dynamics.nsteps:
            self._save(checkpoints, files)

    def _save(self, checkpoints: Checkpoints, files: RunFiles) -> None:
        """Write a checkpoint, unless the structure is not finite: then the last good one is kept."""
        if not np.isfinite(self.atoms.positions).all() or not np.isfinite(self.atoms.get_momenta()).all():
            return
        frames = files.save()
        state = state_of(self.dynamics, self.rng, self.monitor, self.observers, self._clock())
        figures = {**state.figures, "frames": frames, "probe": self.identity.numbers}
        checkpoints.save(replace(state, figures=figures))

    def _follow(self) -> None:
        """Set the thermostat to the temperature at the current time."""
        now = self.dynamics.nsteps * self.config.timestep_fs / 1000.0
        set_temperature(self.dynamics, float(np.interp(now, self.course[:, 0], self.course[:, 1])))

    def _write(self, trajectory: Path) -> None:
        """Write every k-th frame, and the one that halted the run."""
        step = self.dynamics.nsteps
        if self.monitor.halted or step % self.write_every == 0:
            # the check that halted has evaluated the draws, possibly at a structure that is not finite
            compute = () if self.monitor.halted else self._compute
            frame = snapshot(self.atoms, self.monitor.calculator, compute=compute)
            frame.info |= {STEP: step, "time_fs": step * self.config.timestep_fs}
            write(trajectory, frame, append=True, checksums=keeps_sums(trajectory))

    def _advance(self, bar: tqdm) -> None:
        bar.update(self.dynamics.nsteps - bar.n)
        history, limit = self.monitor.history, self.monitor.limit
        if len(history):
            last = history.last("max_atom_std")
            shown = f"{last:.3f}" if limit is None else f"{last:.3f}/{limit:.3f}"
            bar.set_postfix_str(
                f"{self.degrees.temperature_K(self.atoms):.0f} K, max atom_std {shown} eV/Å", refresh=False
            )

    def _received(self, number: int) -> None:
        self._signal = number

    def _end_on_signal(self) -> None:
        if self._signal:
            self.dynamics.max_steps = self.dynamics.nsteps
