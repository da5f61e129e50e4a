"""Langevin MD under an uncertainty monitor, with a progress bar and a summary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from tqdm import tqdm

from blipcalc.errors import ConfigurationError
from blipcalc.io import write
from blipcalc.monitor.observer import Status, UncertaintyMonitor


@dataclass(frozen=True)
class MDSummary:
    """What became of a run.

    status : ``finished``, ``halted`` by the monitor, or ``stopped`` by somebody else
    time_ps : how far it came; wall_seconds : how long that took
    temperature_K : mean over the checked steps
    max_atom_std : largest per-atom force uncertainty of all checks, eV/Å; limit : the largest that passes
    reason : of the halt
    """

    status: Status
    steps: int
    time_ps: float
    wall_seconds: float
    temperature_K: float
    max_atom_std: float
    limit: float | None
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def run_md(
    atoms: Atoms,
    *,
    time_ps: float,
    temperature_K: float | Sequence[tuple[float, float]] = 300.0,
    timestep_fs: float = 0.5,
    friction_per_fs: float = 0.01,
    seed: int = 0,
    trajectory: str | Path | None = None,
    write_every: int = 20,
    progress: bool = True,
    **monitor: Any,
) -> tuple[MDSummary, UncertaintyMonitor]:
    """Run Langevin MD of a structure that carries a calculator, watched by a monitor.

    Momenta are drawn at the (first) temperature where the structure has none.  ``fixcm=False``: ASE's default samples a
    temperature that is too high by N/(N-1).

    Parameters
    ----------
    atoms : moved in place
    time_ps : length of the run
    temperature_K : of the thermostat, or its course as points (time in ps, K), linear in between
    timestep_fs, friction_per_fs : of the integrator
    seed : of momenta and thermostat
    trajectory : file that every ``write_every``-th frame goes to, see :func:`blipcalc.io.write`, with the uncertainties that
        the calculator holds for it: on the centre surface at checks only, so let it be a multiple of ``every``.  The frame
        that halted the run is its last one
    progress : show a bar
    monitor : settings of :class:`~blipcalc.monitor.observer.UncertaintyMonitor`: ``tolerance=…``, ``every=…``, …

    Returns
    -------
    the summary, and the monitor with its history

    Raises
    ------
    ConfigurationError : lengths or temperatures that are not positive
    """
    course = np.array([(0.0, temperature_K)] if np.isscalar(temperature_K) else temperature_K, dtype=float)
    if course.ndim != 2 or course.shape[1] != 2:
        raise ConfigurationError(f"temperature_K={temperature_K!r}; expected a number of K, or points (time in ps, K)")
    start = course[0, 1]
    if not (time_ps > 0 and timestep_fs > 0 and course[:, 1].min() > 0 and write_every >= 1):
        raise ConfigurationError("time_ps, timestep_fs, temperature_K and write_every must be positive")
    rng = np.random.default_rng(seed)
    if not atoms.get_momenta().any():
        thermalize_momenta(atoms, temperature_K=start, rng=rng)
        Stationary(atoms)
        if not atoms.pbc.any():
            ZeroRotation(atoms)
    steps = round(time_ps * 1000.0 / timestep_fs)
    dynamics = Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=start,
        friction=friction_per_fs / units.fs,
        fixcm=False,
        rng=rng,
    )
    watch = UncertaintyMonitor(dynamics, **monitor)
    if len(course) > 1:
        dynamics.attach(
            lambda: dynamics.set_temperature(temperature_K=_at(course, dynamics.nsteps * timestep_fs / 1000.0))
        )
    if trajectory is not None:
        writer = _Writer(atoms, Path(trajectory), watch, write_every)
        dynamics.attach(writer)
    began = time.perf_counter()
    with tqdm(total=steps, unit="step", disable=not progress) as bar:
        if progress:
            dynamics.attach(lambda: _advance(bar, dynamics, watch), interval=watch.every)
        dynamics.run(steps)
        bar.update(dynamics.nsteps - bar.n)
    return _summary(dynamics, watch, timestep_fs, time.perf_counter() - began), watch


def _at(course: np.ndarray, time_ps: float) -> float:
    """Temperature of the course at a time, K."""
    return float(np.interp(time_ps, course[:, 0], course[:, 1]))


class _Writer:
    """Writes every k-th frame, and the one that halted the run; the file is begun anew."""

    def __init__(self, atoms: Atoms, path: Path, monitor: UncertaintyMonitor, every: int) -> None:
        self.atoms, self.path, self.monitor, self.every = atoms, path, monitor, every
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)

    def __call__(self) -> None:
        if self.monitor.halted or self.monitor.dynamics.nsteps % self.every == 0:
            write(self.path, self.atoms, append=self.path.exists())


def _advance(bar: tqdm, dynamics: Langevin, watch: UncertaintyMonitor) -> None:
    bar.update(dynamics.nsteps - bar.n)
    if len(watch.history):
        last, limit = watch.history.last("max_atom_std"), watch.limit
        shown = f"{last:.3f}" if limit is None else f"{last:.3f}/{limit:.3f}"
        bar.set_postfix_str(f"{dynamics.atoms.get_temperature():.0f} K, max atom_std {shown} eV/Å", refresh=False)


def _summary(dynamics: Langevin, watch: UncertaintyMonitor, timestep_fs: float, wall: float) -> MDSummary:
    history = watch.history
    return MDSummary(
        status=watch.status,
        steps=dynamics.nsteps,
        time_ps=dynamics.nsteps * timestep_fs / 1000.0,
        wall_seconds=wall,
        temperature_K=float(np.mean(history["temperature_K"])) if len(history) else float("nan"),
        max_atom_std=float(np.max(history["max_atom_std"])) if len(history) else float("nan"),
        limit=watch.limit,
        reason=watch.verdict.reason if watch.halted and watch.verdict is not None else None,
    )
