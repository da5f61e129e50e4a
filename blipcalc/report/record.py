"""The folder of an MD run, read: how it ended, what the monitor saw, which run it was."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from blipcalc.errors import DataError
from blipcalc.md.files import EVENTS, HISTORY, SUMMARY, TRAJECTORY
from blipcalc.md.run import MDSummary
from blipcalc.monitor.events import read_events
from blipcalc.monitor.history import History
from blipcalc.run_folder import NEWEST, PREVIOUS, last_checkpoint

#: what makes a folder that of a run
OF_A_RUN = (SUMMARY, HISTORY, NEWEST, PREVIOUS, TRAJECTORY, EVENTS)
#: of one figure or another, which may be not finite and is null in the file then
MAY_BE_NAN = ("temperature_K", "max_atom_std")


@dataclass(frozen=True)
class Event:
    """One line of the event log, see :class:`~blipcalc.monitor.events.EventLog`."""

    event: str
    step: int
    time_fs: float | None
    atoms: list[int]
    symbols: list[str]
    value: float | None
    threshold: float | None
    unit: str
    reason: str


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds.

    summary : None for a run that has not come to its end, or was killed
    history : empty where no check was kept
    step, seconds : how far it came, and the wall time that took; NaN where nobody knows
    identity : of structure and calculator; empty where it is not recorded
    probe : {part of the calculator that declares no identity: {quantity: numbers on a probe structure, eV and Å}}
    config, environment, provenance : as the run wrote them; empty where it did not
    trajectory : None where there is none
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
    provenance: dict[str, Any]
    trajectory: Path | None

    @property
    def is_timed(self) -> bool:
        """Whether every check has a time; else steps are what there is."""
        return bool(len(self.history)) and bool(np.isfinite(self.history["time_fs"]).all())

    @property
    def is_halted(self) -> bool:
        """Whether the guard ended it."""
        return self.summary is not None and self.summary.status == "halted"

    @property
    def time_ps(self) -> float:
        """How far it came; NaN where nobody knows."""
        if self.summary is not None:
            return self.summary.time_ps
        return self.step * self.config.get("timestep_fs", math.nan) / 1000.0

    @property
    def halt(self) -> Event | None:
        """The event that ended it."""
        halts = [event for event in self.events if event.event == "halt"]
        return halts[-1] if halts and self.is_halted else None

    def at(self, steps: np.ndarray, times_fs: np.ndarray) -> np.ndarray:
        """Where something stands on the axis of time: ps, or steps."""
        return np.asarray(times_fs, dtype=float) / 1000.0 if self.is_timed else np.asarray(steps, dtype=float)


def read_run(folder: str | Path) -> RunRecord:
    """Read a run folder.

    raises : DataError for a folder that is none of a run, or one of whose files is damaged
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; expected the run folder of 'blipcalc md --folder' or run_md(folder=…)")
    if not any((folder / name).is_file() for name in OF_A_RUN):
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise DataError(f"{folder} is no run folder: expected {', '.join(OF_A_RUN)}, found {found}")
    summary, run = _summary(folder / SUMMARY)
    history, events = _history(folder / HISTORY), _events(folder / EVENTS)
    checkpoint = last_checkpoint(folder)
    kept = {} if checkpoint is None else checkpoint[1]
    if summary is not None and kept.get("step", 0) > summary.steps:
        summary = None  # of an earlier part of a run that went on since
    run = run or kept
    config = {**kept.get("config", {}), **run.get("config", {})}
    trajectory = folder / Path(config.get("trajectory") or TRAJECTORY).name
    seen = [kept.get("step", 0), int(history.last("step")) if len(history) else 0, *(event.step for event in events)]
    return RunRecord(
        folder=folder,
        summary=summary,
        history=history,
        events=events,
        step=max(seen) if summary is None else summary.steps,
        seconds=kept.get("seconds", math.nan) if summary is None else summary.wall_seconds,
        identity=run.get("identity", ""),
        probe=run.get("probe") or {},
        config=config,
        environment=run.get("environment") or {},
        provenance=run.get("provenance") or {},
        trajectory=trajectory if trajectory.is_file() else None,
    )


def file_hashes(folder: Path, leave_out: Path) -> dict[str, tuple[int, str]]:
    """{name: (bytes, SHA-256)} of the files in a folder, hidden ones left out.

    leave_out : the page itself
    """
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.resolve() != leave_out.resolve():
            with path.open("rb") as stream:
                found[path.name] = (path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())
    return found


def _summary(path: Path) -> tuple[MDSummary | None, dict[str, Any]]:
    """The summary, and what it says of the run."""
    if not path.is_file():
        return None, {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is damaged: {error}; remove it, and the page shows the run as one that has not ended"
        ) from None
    missing = [f.name for f in fields(MDSummary) if not isinstance(said, dict) or f.name not in said]
    if missing:
        raise DataError(f"{path} is no summary of run_md: expected {', '.join(missing)} in it")
    values = {f.name: said[f.name] for f in fields(MDSummary)}
    values |= {name: math.nan for name in MAY_BE_NAN if values[name] is None}
    try:
        summary = TypeAdapter(MDSummary).validate_python(values)
    except ValidationError as error:
        raise DataError(f"{path} is no summary of run_md: {_first(error)}") from None
    return summary, said.get("run") or {}


def _history(path: Path) -> History:
    history = History()
    history.load_csv(path, last_step=sys.maxsize)
    return history


def _events(path: Path) -> tuple[Event, ...]:
    if not path.is_file():
        return ()
    try:
        lines = read_events(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: {error}") from None
    adapter, found = TypeAdapter(Event), []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(adapter.validate_python(line))
        except ValidationError as error:
            raise DataError(f"{path}, line {number}, is no event: {_first(error)}") from None
    return tuple(found)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
