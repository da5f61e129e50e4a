"""Define the type of a monitor's settings, for functions that pass them on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from ase.calculators.calculator import Calculator

from blipcalc.monitor.actions import Action
from blipcalc.monitor.decisions import CriterionFunction
from blipcalc.monitor.fault_checks import FaultCheck
from blipcalc.monitor.limits import Limits


class MonitorSettings(TypedDict, total=False):
    """Keyword arguments of :class:`~blipcalc.monitor.observer.UncertaintyMonitor`."""

    tolerance: float | None
    level: float
    threshold: float | Mapping[str, float] | None
    limits: Limits | str | Path | None
    criteria: Sequence[CriterionFunction]
    every: int | None
    on_breach: Sequence[str | Action] | str | Action | None
    record_to: str | Path | None
    fault_checks: Sequence[FaultCheck] | None
    self_test: bool
    events: str | Path | None
    annotate: bool
    calculator: Calculator | None
