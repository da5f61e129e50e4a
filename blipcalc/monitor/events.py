"""Write and read the events of a run, one line of JSON each; a line is on disk before the run continues."""

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
    """One line of an :class:`EventLog`."""

    model_config = ConfigDict(extra="allow")  # a user's action may add further figures

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
    """Append events to a file.

    | key | unit | |
    |---|---|---|
    | ``event`` | | ``warning``, ``halt``, ``passed`` (after either), or the name of an action |
    | ``step``, ``time_fs`` | , fs | time is null for an optimiser |
    | ``atoms``, ``symbols`` | | atoms beyond the limit, worst first |
    | ``value``, ``threshold``, ``unit`` | ``unit`` | null if not finite |
    | ``reason`` | | one sentence |

    path : of the file, created if missing
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._count: int | None = None

    @property
    def count(self) -> int:
        """Return the number of events in the file."""
        if self._count is None:
            self._count = len(read_events(self.path)) if self.path.exists() else 0
        return self._count

    def write(self, event: str, decision: Decision, atoms: Atoms, dynamics: BaseDynamics, **more: Any) -> None:
        """Append an event."""
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
        """Remove events after a step, since the run will write them again."""
        if self.path.exists():
            with adding(self.path):
                kept = [json.dumps(event) for event in read_events(self.path) if event["step"] <= last_step]
                forget_sums(self.path)
                write_atomically(self.path, "".join(line + "\n" for line in kept).encode())
                add_sums(self.path)
            self._count = len(kept)


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """Return the events of a file as plain values, see :func:`events_of`."""
    return [event.model_dump() for event in events_of(path)]


def events_of(path: str | Path) -> list[Event]:
    """Return the events of a file; an incomplete last line is left out.

    raises : DataError for any other fault, DamagedFileError for one detected by checksums
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
    """Return a decision as values for JSON, converting whatever number types a user's criterion has used."""
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
    """Return the decision of :func:`plain`; values that were not finite are NaN."""
    numbers = {key: math.nan if said[key] is None else said[key] for key in ("value", "threshold")}
    return Decision(**{**said, **numbers, "atoms": tuple(said["atoms"])})


def finite(value: float) -> float | None:
    """Return a number for JSON: None if it is not finite."""
    return float(value) if math.isfinite(value) else None
