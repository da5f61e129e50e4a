"""Hold all criteria and fault checks of one monitor, with their joint decision, their excuses and their memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator

from blipcalc.calculators.bayesian import bayesian_of
from blipcalc.errors import ConfigurationError, MonitorError
from blipcalc.monitor.criteria import CalibratedTolerance, Criterion, ElementThresholds, MaxAtomStd, NonFinite
from blipcalc.monitor.decisions import CriterionFunction, Decision, Reading, gravest
from blipcalc.monitor.fault_checks import FaultCheck
from blipcalc.monitor.limits import Limits
from blipcalc.monitor.readings import check_watchable
from blipcalc.monitor.run_criteria import SequentialCriterion
from blipcalc.monitor.stuck import StuckUncertainty
from blipcalc.settings import number


class CriteriaSet:
    """Criteria on readings, and fault checks made at every step.

    Parameters
    ----------
    tolerance, level : of the calibrated criterion
    threshold : instead of a tolerance, on ``atom_std``: a number, or {symbol: number}
    limits : instead of either, or their file
    criteria : further criteria
    fault_checks : made at every step
    """

    def __init__(
        self,
        tolerance: float | None,
        level: float,
        threshold: float | Mapping[str, float] | None,
        limits: Limits | str | Path | None,
        criteria: Sequence[CriterionFunction],
        fault_checks: Sequence[FaultCheck],
    ) -> None:
        given = [rule for rule in (tolerance, threshold, limits) if rule is not None]
        if len(given) > 1:
            raise ConfigurationError(
                "give one of tolerance= (the calibrated rule), threshold= (a number on atom_std) and limits= (with a rate of "
                "false alarms)"
            )
        for name, rules in (("criteria", criteria), ("fault_checks", fault_checks)):
            if not isinstance(rules, (list, tuple)) or not all(map(callable, rules)):
                raise ConfigurationError(f"{name}={rules!r}; expected a list of rules, each a function")
        if not (limits is None or isinstance(limits, (str, Path, Limits))):
            raise ConfigurationError(f"limits={limits!r}; expected Limits or the path of their file")
        if not given and not criteria:
            raise ConfigurationError("nothing to watch: give tolerance=, threshold=, limits= or criteria=")
        self.tolerance = None if tolerance is None else number("tolerance", tolerance, above=0.0)
        self.level, self.threshold = number("level", level), threshold
        self.limits = Limits.load(limits) if isinstance(limits, (str, Path)) else limits
        self.fault_checks = tuple(fault_checks)
        self.still: StuckUncertainty | None = None  # a fault check on readings, not on structures
        self._given, self._own = tuple(criteria), self._first()
        self._fits: Calculator | None = None
        self._halting: set[int] = set()  # criteria with a breach that halts at the last check
        self._excused: set[int] = set()  # those of them that may not halt until they have passed
        self._safe: list[dict[str, Any]] = []

    def _first(self) -> tuple[CriterionFunction, ...]:
        """Return the criteria of limits or threshold, before those given; a tolerance waits for its calculator."""
        if self.limits is not None:
            return self.limits.rules()
        if self.tolerance is not None:
            return ()
        if isinstance(self.threshold, Mapping):
            return (ElementThresholds(dict(self.threshold)),)
        return () if self.threshold is None else (MaxAtomStd(self.threshold),)

    @property
    def criteria(self) -> tuple[CriterionFunction, ...]:
        """Return all criteria on readings."""
        return (*self._own, *self._given)

    @property
    def _declared(self) -> list[Criterion]:
        """Return the criteria that derive from :class:`Criterion`."""
        return [rule for rule in self.criteria if isinstance(rule, Criterion)]

    @property
    def ask_pressure(self) -> bool:
        """Return whether a criterion needs the pressure."""
        return any(rule.needs_pressure for rule in self._declared)

    @property
    def limit(self) -> float | None:
        """Return the largest ``atom_std`` that passes, eV/Å; None if the first criterion has no single limit."""
        first = self.criteria[0] if self.criteria else None
        return first.largest_atom_std() if isinstance(first, Criterion) else None

    def check_symbols(self, symbols: Sequence[str]) -> None:
        """Raise :class:`ConfigurationError` for elements without a threshold in a criterion."""
        for rule in self._declared:
            rule.check_symbols(symbols)

    def fit(self, calc: Calculator | None) -> None:
        """Take the calibration of a calculator, which may be replaced between runs."""
        if calc is self._fits and calc is not None:
            return
        check_watchable(calc)
        part = bayesian_of(calc)
        calibration, domain = (None, None) if part is None else (part.calibration, part.domain)
        if self.limits is not None:
            self.limits.check_identity(calibration, domain)
        if self.tolerance is not None:
            self._own = (CalibratedTolerance.from_calibration(calibration, self.tolerance, self.level),)
        self._fits = calc

    def ask_faults(self, atoms: Atoms, step: int) -> list[Decision]:
        """Return the decisions of the fault checks on a structure."""
        return [replace(fault(atoms, step), is_hard=True) for fault in self.fault_checks]

    def judge(self, reading: Reading, found: Sequence[Decision]) -> tuple[Decision, bool]:
        """Return the decision to act on, and whether its criterion is excused; faults and non-finite values never are.

        found : decisions of the fault checks
        """
        failed = NonFinite()(reading)
        if failed.breached:
            return replace(failed, is_hard=True), False
        if self.still is not None:
            found = [*found, replace(self.still(reading), is_hard=True)]
        decisions = [criterion(reading) for criterion in self.criteria]
        self._halting = {k for k, decision in enumerate(decisions) if decision.breached and decision.halts}
        self._excused &= self._halting
        excused = {k for k in self._excused if math.isfinite(decisions[k].value)}
        others = [*(decision for k, decision in enumerate(decisions) if k not in excused), *found]
        if excused and not any(decision.breached and decision.halts for decision in others):
            return decisions[min(excused)], True
        return gravest(others), False

    def excuse(self) -> None:
        """Excuse the criteria that halted the run, until they have passed."""
        self._excused = set(self._halting)

    @property
    def _channels(self) -> list[SequentialCriterion]:
        """Return the sequential criteria."""
        return [rule for rule in self.criteria if isinstance(rule, SequentialCriterion)]

    def keep(self) -> None:
        """Store the memory of the sequential criteria, for a roll-back to this structure."""
        self._safe = [channel.state() for channel in self._channels]

    def roll_back(self, atoms: Atoms, step: int) -> None:
        """Restore the memory of :meth:`keep`; the fault checks do not count the move back as a leap."""
        for channel, state in zip(self._channels, self._safe, strict=False):
            channel.restore(state)
        self.ask_faults(atoms, step)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the criteria as plain values; the user's functions by their names."""
        thresholds = dict(self.threshold) if isinstance(self.threshold, Mapping) else {"": self.threshold}
        return {
            "tolerance": self.tolerance,
            "level": self.level,
            "threshold": {key: None if value is None else repr(float(value)) for key, value in thresholds.items()},
            "limits": None if self.limits is None else self.limits.hash,
            "rules": [name_of(rule) for rule in (*self._given, *self.fault_checks)],
        }

    def state(self) -> dict[str, Any]:
        """Return the memory of the criteria as plain values."""
        return {
            "halting": sorted(self._halting),
            "excused": sorted(self._excused),
            "channels": [[name_of(channel), channel.state()] for channel in self._channels],
            "safe": list(self._safe),
            "still": None if self.still is None else self.still.state(),
        }

    def restore(self, state: Mapping[str, Any], atoms: Atoms, step: int) -> None:
        """Restore :meth:`state`, with the structure at that step; raises :class:`MonitorError` for other sequential criteria."""
        if [name_of(channel) for channel in self._channels] != [kind for kind, _ in state["channels"]]:
            raise MonitorError("the checkpoint is of a monitor with other rules")
        self._halting, self._excused = set(state["halting"]), set(state["excused"])
        self._safe = list(state["safe"])
        if self.still is not None and state.get("still") is not None:  # older checkpoints do not hold it
            self.still.restore(state["still"])
        for channel, (_, memory) in zip(self._channels, state["channels"], strict=True):
            channel.restore(memory)
        self.ask_faults(atoms, step)


def name_of(rule: object) -> str:
    """Return the name of a function, or of the class of an object."""
    return getattr(rule, "__name__", type(rule).__name__)
