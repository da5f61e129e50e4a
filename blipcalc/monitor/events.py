"""What happened to a run, one line of JSON for each event; a line is on disk before the run goes on."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ase import Atoms
from ase.optimize.optimize import BaseDynamics
from pydantic import ConfigDict, model_validator

from blipcalc.errors import DataError, ModelFileError
from blipcalc.files.checksums import add_sums, forget_sums, verify
from blipcalc.files.locks import adding
from blipcalc.files.safetensors_file import json_object, write_atomically
from blipcalc.monitor.decisions import Decision
from blipcalc.monitor.readings import time_fs
from blipcalc.settings import Count, NotNegative, Settings, checked


class Event(Settings):
    """One line of the log, see :class:`EventLog`."""

    model_config = ConfigDict(extra="allow")  # an action of the user's may add figures of its own

    event: str
    step: Count
    time_fs: NotNegative | None
    atoms: list[Count]
    symbols: list[str]
    value: float | None
    threshold: float | None
    unit: str
    reason: str

    @model_validator(mode="after")
    def _names_its_atoms(self) -> Self:
        if len(self.symbols) != len(self.atoms):
            raise ValueError(f"expected a symbol for each of {len(self.atoms)} atoms, got {len(self.symbols)}")
        return self


class EventLog:
    """Appends events to a file.

    | key | unit | |
    |---|---|---|
    | ``event`` | | ``warning``, ``halt``, ``passed`` (after either), or the name of what was done |
    | ``step``, ``time_fs`` | , fs | time is null for an optimiser |
    | ``atoms``, ``symbols`` | | those beyond the limit, worst first |
    | ``value``, ``threshold``, ``unit`` | as said | null where not finite |
    | ``reason`` | | one sentence |

    path : of the file, made where it is not there
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._count: int | None = None

    @property
    def count(self) -> int:
        """How many events the file holds."""
        if self._count is None:
            self._count = len(read_events(self.path)) if self.path.exists() else 0
        return self._count

    def write(self, event: str, decision: Decision, atoms: Atoms, dynamics: BaseDynamics, **more: Any) -> None:
        """Append one."""
        said = plain(decision)
        line = {
            "event": event,
            "step": said["step"],
            "time_fs": finite(time_fs(dynamics)),
            "atoms": said["atoms"],
            "symbols": [atoms.symbols[i] for i in said["atoms"]],
            **{key: said[key] for key in ("value", "threshold", "unit", "reason")},
            **more,
        }
        with adding(self.path):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            add_sums(self.path)
        self._count = None if self._count is None else self._count + 1

    def cut(self, last_step: int) -> None:
        """Leave out events behind a step, which the run will make again."""
        if self.path.exists():
            with adding(self.path):
                kept = [json.dumps(event) for event in read_events(self.path) if event["step"] <= last_step]
                forget_sums(self.path)
                write_atomically(self.path, "".join(line + "\n" for line in kept).encode())
                add_sums(self.path)
            self._count = len(kept)


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The events of a file as plain values, see :func:`events_of`."""
    return [event.model_dump() for event in events_of(path)]


def events_of(path: str | Path) -> list[Event]:
    """The events of a file; a last line that was cut short is left out.

    raises : DataError for any other fault, DamagedFileError where checksums tell it
    """
    path = Path(path)
    try:
        verify(path)
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} holds no events: {error}") from None
    *whole, last = lines
    events = [_event(path, number, line) for number, line in enumerate(whole, start=1) if line]
    with contextlib.suppress(DataError):
        events += [_event(path, len(lines), last)] if last else []
    return events


def _event(path: Path, number: int, line: str) -> Event:
    what = f"{path}, line {number}, is no event"
    try:
        said = json_object(path, "JSON", line)
    except ModelFileError as error:
        raise DataError(f"{what}: {error}") from None
    return checked(Event, said, what)


def plain(decision: Decision) -> dict[str, Any]:
    """A decision as JSON has it, whatever numbers a rule of the user's put into it."""
    return {
        "breached": bool(decision.breached),
        "atoms": [int(i) for i in decision.atoms],
        "value": finite(decision.value),
        "threshold": finite(decision.threshold),
        "unit": str(decision.unit),
        "reason": str(decision.reason),
        "step": int(decision.step),
        "halts": bool(decision.halts),
        "is_hard": bool(decision.is_hard),
    }


def decision_of(said: Mapping[str, Any]) -> Decision:
    """The decision of :func:`plain`; what was not finite is NaN."""
    numbers = {key: math.nan if said[key] is None else said[key] for key in ("value", "threshold")}
    return Decision(**{**said, **numbers, "atoms": tuple(said["atoms"])})


def finite(value: float) -> float | None:
    """A number as JSON has it: None for what is not finite."""
    return float(value) if math.isfinite(value) else None
