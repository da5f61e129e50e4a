"""Read the folder of an MD run: its outcome, the monitor's history, its identity."""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blipcalc.errors import DataError
from blipcalc.files.run_folder import NEWEST, PREVIOUS
from blipcalc.md.run_files import EVENTS, HISTORY, SUMMARY, TRAJECTORY
from blipcalc.md.summary import MDSummary, StoredProvenance, read_checkpoint, read_summary
from blipcalc.monitor.events import Event, events_of
from blipcalc.monitor.history import History

#: files of which a run folder holds at least one
OF_A_RUN = (SUMMARY, HISTORY, NEWEST, PREVIOUS, TRAJECTORY, EVENTS)


@dataclass(frozen=True)
class RunRecord:
    """Content of a run folder.

    summary : None for a run that has not ended, or was killed
    history : empty without stored checks
    step, seconds : last step, and wall time; ``seconds`` is NaN if not known
    identity : of structure and calculator; empty if not recorded
    probe : {part of the calculator that declares no identity: {quantity: numbers on a probe structure, eV and Å}}
    config, environment, provenance : as recorded by the run; empty or None otherwise
    trajectory : None without a trajectory
    """

    folder: Path
    summary: MDSummary | None
    history: History
    events: tuple[Event, ...]
    step: int
    seconds: float
    identity: str
    probe: dict[str, dict[str, list[float | None]]]
    config: dict[str, Any]
    environment: dict[str, Any]
    provenance: StoredProvenance | None
    trajectory: Path | None

    @property
    def is_timed(self) -> bool:
        """Return whether every check has a time; else the axis is in steps."""
        return bool(len(self.history)) and bool(np.isfinite(self.history["time_fs"]).all())

    @property
    def is_halted(self) -> bool:
        """Return whether the monitor halted the run."""
        return self.summary is not None and self.summary.status == "halted"

    @property
    def time_ps(self) -> float:
        """Return the simulated time, ps; NaN if not known."""
        if self.summary is not None:
            return self.summary.time_ps
        return self.step * self.config.get("timestep_fs", math.nan) / 1000.0

    @property
    def halt(self) -> Event | None:
        """Return the event that halted the run; None without one."""
        halts = [event for event in self.events if event.event == "halt"]
        return halts[-1] if halts and self.is_halted else None

    def at(self, steps: np.ndarray, times_fs: np.ndarray) -> np.ndarray:
        """Return positions on the axis of time: ps, or steps."""
        return np.asarray(times_fs, dtype=float) / 1000.0 if self.is_timed else np.asarray(steps, dtype=float)


def read_run(folder: str | Path) -> RunRecord:
    """Return the record of a run folder.

    raises : DataError for a folder without a run, or with a damaged file
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; expected the run folder of 'blipcalc md --folder' or run_md(folder=…)")
    if not any((folder / name).is_file() for name in OF_A_RUN):
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise DataError(f"{folder} is no run folder: expected {', '.join(OF_A_RUN)}, found {found}")
    summary, run = read_summary(folder / SUMMARY) or (None, None)
    history, events = _history(folder / HISTORY), _events(folder / EVENTS)
    checkpoint = read_checkpoint(folder)
    if summary is not None and checkpoint is not None and checkpoint.step > summary.steps:
        summary = None  # of an earlier part of a run that was continued
    known = [said for said in (checkpoint, run) if said is not None]
    config = {key: value for said in known for key, value in said.config.model_dump(exclude_unset=True).items()}
    trajectory = folder / Path(config.get("trajectory") or TRAJECTORY).name
    seen = [checkpoint.step if checkpoint is not None else 0, *(event.step for event in events)]
    seen += [int(history.last("step"))] if len(history) else []
    seconds = math.nan if checkpoint is None else checkpoint.seconds
    return RunRecord(
        folder=folder,
        summary=summary,
        history=history,
        events=events,
        step=max(seen) if summary is None else summary.steps,
        seconds=seconds if summary is None else summary.wall_seconds,
        identity=known[-1].identity if known else "",
        probe=known[-1].probe if known else {},
        config=config,
        environment=known[-1].environment if known else {},
        provenance=known[-1].provenance if known else None,
        trajectory=trajectory if trajectory.is_file() else None,
    )


def file_hashes(folder: Path, leave_out: Path) -> dict[str, tuple[int, str]]:
    """Return {name: (bytes, SHA-256)} of the files in a folder, without hidden ones.

    leave_out : the page itself
    """
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.resolve() != leave_out.resolve():
            with path.open("rb") as stream:
                found[path.name] = (path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())
    return found


def _history(path: Path) -> History:
    history = History()
    history.load_csv(path, last_step=sys.maxsize)
    return history


def _events(path: Path) -> tuple[Event, ...]:
    return tuple(events_of(path)) if path.is_file() else ()
