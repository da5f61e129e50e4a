"""Instant and sequential criteria on the ratio of error bound to tolerance, and on the latent distance.

    R_t = max_i q_el(i) σ_i(t) / ε_tol

| symbol | variable |
|---|---|
| σ_i | ``atom_std`` of atom i, eV/Å |
| q_el | ``quantiles``, of one atom of the element: q σ bounds the norm of its force error |
| ε_tol | ``tolerance``, eV/Å |

| class | criterion | result of a breach |
|---|---|---|
| :class:`InstantThreshold` | R_t ≤ limit | halt, at once |
| :class:`SmoothedThreshold` | geometric mean of R over a window ≤ limit | halt; warning beyond a lower level |
| :class:`LatentDistanceThreshold` | latent distance ≤ limit; does not use σ | halt, at once |
| :class:`ConsecutiveBreaches` | another criterion, at ``checks`` checks in a row | as that criterion; warning before |
| :class:`EDetector` | e-detector on p-values of thinned checks | halt; average time between false alarms bounded below |

A sequential criterion takes every reading once, in order, and returns its memory as plain values for a checkpoint.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from blipcalc.errors import ConfigurationError
from blipcalc.monitor.decisions import CriterionFunction, Decision, Reading, worst_first
from blipcalc.settings import number, whole
from blipcalc.stats.evidence import ShiryaevRoberts, conformal_p, log_bet

#: value of R if no atom can move, so that its logarithm is finite
SMALLEST = 1e-12


@runtime_checkable
class SequentialCriterion(Protocol):
    """Criterion with a memory of earlier readings."""

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading, and add the reading to the memory."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the memory as plain values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the memory from :meth:`state`."""
        ...


@dataclass(frozen=True)
class HaltRatio:
    """Ratio q σ / ε_tol of every atom.

    quantiles : {symbol: q}; any other element has NaN
    tolerance : ε_tol, eV/Å
    """

    quantiles: Mapping[str, float]
    tolerance: float

    def __call__(self, symbols: Sequence[str], atom_std: np.ndarray) -> np.ndarray:
        """Return the ratios (n,) of atoms with these elements and ``atom_std`` (n,) eV/Å."""
        return np.array([self.quantiles.get(s, math.nan) for s in symbols]) * atom_std / self.tolerance

    def largest(self, reading: Reading) -> float:
        """Return R_t over the atoms that count; NaN if one of them is NaN."""
        counted = self(reading.symbols, reading.atom_std)[reading.mask]
        return float(counted.max()) if counted.size else SMALLEST

    def worst(self, reading: Reading) -> tuple[int, ...]:
        """Return the index of the atom with the largest ratio, if any atom counts."""
        return worst_first(self(reading.symbols, reading.atom_std), reading.mask)[:1]


@dataclass(frozen=True)
class InstantThreshold:
    """Instant criterion: R_t ≤ limit at every check.

    limit : on R
    """

    ratio: HaltRatio
    limit: float

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading."""
        values = self.ratio(reading.symbols, reading.atom_std)
        beyond = reading.mask & ~(values <= self.limit)
        atoms, value = worst_first(values, beyond), self.ratio.largest(reading)
        reason = _reason(reading, self.ratio, f"bound on the force error is {value:.3g} of the tolerance", self.limit)
        return Decision(bool(atoms), atoms, value, self.limit, "of the tolerance", reason, reading.step)


@dataclass(frozen=True)
class LatentDistanceThreshold:
    """Instant criterion: latent distance of every atom from the data ≤ limit at every check, independent of σ.

    limit : see :class:`~blipcalc.core.domain.Domain`
    """

    limit: float

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading; a model without a domain is a breach."""
        values, value = reading.latent_distance, reading.max_latent_distance
        if values is None:
            reason = "the model does not say where its data were"
            return Decision(True, (), math.nan, self.limit, "", reason, reading.step)
        atoms = worst_first(values, reading.mask & ~(values <= self.limit))
        worst = worst_first(values, reading.mask)[:1]
        whose = f" (atom {worst[0]}, {reading.symbols[worst[0]]})" if worst else ""
        reason = f"latent distance from the data is {value:.3g}{whose}, limit {self.limit:.3g}"
        return Decision(not (value <= self.limit), atoms, value, self.limit, "", reason, reading.step)


@dataclass
class SmoothedThreshold:
    """Sequential criterion: mean of ln R over the last window ≤ ln limit, once a whole window has been read.

    window : checks
    limit, warning : on the geometric mean of R
    """

    ratio: HaltRatio
    window: int
    limit: float
    warning: float = math.inf
    _logs: deque[float] = field(default_factory=deque, init=False, repr=False)

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading: a warning beyond the lower level, a halt beyond the limit."""
        self._logs.append(math.log(max(self.ratio.largest(reading), SMALLEST)))
        while len(self._logs) > self.window:
            self._logs.popleft()
        # summed from the start each time, so that a run continued from a checkpoint rounds the same
        value = math.exp(math.fsum(self._logs) / self.window) if len(self._logs) == self.window else 0.0
        level = min(self.limit, self.warning)
        breached, halts = not (value <= level), not (value <= self.limit)
        atoms = self.ratio.worst(reading) if breached else ()
        reason = f"bound on the force error is {value:.3g} of the tolerance, on average over {self.window} checks"
        threshold = self.limit if halts else level
        reason = _reason(reading, self.ratio, reason, threshold)
        return Decision(breached, atoms, value, threshold, "of the tolerance", reason, reading.step, halts=halts)

    def state(self) -> dict[str, Any]:
        """Return the memory: ln R of the last window."""
        return {"logs": [None if math.isnan(value) else value for value in self._logs]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the memory from :meth:`state`."""
        self._logs = deque(math.nan if value is None else value for value in state["logs"])


@dataclass
class EDetector:
    """Sequential criterion: e-detector (Shiryaev-Roberts) on conformal p-values of R at every k-th check.

    reference : R of independent checks of the reference run
    every : k, checks between two independent ones
    run_length : lower bound on the mean number of independent checks before a false alarm
    seed : for breaking ties
    """

    ratio: HaltRatio
    reference: np.ndarray
    every: int
    run_length: float
    seed: int = 0
    _count: int = field(default=0, init=False, repr=False)
    _detector: ShiryaevRoberts = field(init=False, repr=False)
    _rng: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.reference = np.sort(np.asarray(self.reference, dtype=np.float64))
        self._detector, self._rng = ShiryaevRoberts(self.run_length), np.random.default_rng(self.seed)

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading; after an alarm the evidence starts anew."""
        self._count += 1
        alarm = False
        if self._count % self.every == 0:
            value = self.ratio.largest(reading)
            p = conformal_p(np.array([value]), self.reference, self._rng)[0] if not math.isnan(value) else math.nan
            alarm = bool(self._detector.update(math.nan if math.isnan(p) else float(log_bet(p))))
        evidence = float(np.exp(self._detector.log_evidence))
        if alarm:
            self._detector = ShiryaevRoberts(self.run_length)
        atoms = self.ratio.worst(reading) if alarm else ()
        reason = f"evidence that the uncertainty is not that of the reference run: {evidence:.3g}, alarm at {self.run_length:.3g}"
        return Decision(alarm, atoms, evidence, self.run_length, "", reason, reading.step)

    def state(self) -> dict[str, Any]:
        """Return the memory: count, evidence and random generator."""
        evidence = float(self._detector.log_evidence) if math.isfinite(self._detector.log_evidence) else None
        return {"count": self._count, "log_evidence": evidence, "rng": self._rng.bit_generator.state}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the memory from :meth:`state`."""
        self._count = state["count"]
        evidence = -math.inf if state["log_evidence"] is None else state["log_evidence"]
        self._detector = replace(ShiryaevRoberts(self.run_length), log_evidence=evidence)
        self._rng.bit_generator.state = state["rng"]


@dataclass
class ConsecutiveBreaches:
    """Sequential criterion that halts only after another one was breached at ``checks`` checks in a row; before, it warns.

    A breach beyond ``ceiling`` times the limit, or with a value that is not finite, halts at once.

    rule : any criterion
    checks : number of consecutive breaches, including the one that halts
    """

    rule: CriterionFunction
    checks: int
    ceiling: float = math.inf
    _count: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.checks = whole("checks", self.checks)
        if self.checks < 1 or not number("ceiling", self.ceiling, infinite=True) >= 1:
            raise ConfigurationError(f"checks={self.checks}, ceiling={self.ceiling}; expected both to be 1 or more")

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading."""
        decision = self.rule(reading)
        self._count = self._count + 1 if decision.breached else 0
        waits = decision.value <= self.ceiling * decision.threshold and self._count < self.checks
        if not (decision.breached and decision.halts and waits):
            return decision
        reason = f"{decision.reason}; {self._count} of {self.checks} checks in a row"
        return replace(decision, halts=False, reason=reason)

    def state(self) -> dict[str, Any]:
        """Return the memory, including that of the other criterion."""
        return {"count": self._count, "rule": self.rule.state() if isinstance(self.rule, SequentialCriterion) else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the memory from :meth:`state`."""
        self._count = state["count"]
        if isinstance(self.rule, SequentialCriterion):
            self.rule.restore(state["rule"])


def _reason(reading: Reading, ratio: HaltRatio, what: str, limit: float) -> str:
    """Return the reason of a decision, with the worst atom and the limit."""
    worst = ratio.worst(reading)
    whose = f" (atom {worst[0]}, {reading.symbols[worst[0]]})" if worst else ""
    return f"{what}{whose}, limit {limit:.3g}"
