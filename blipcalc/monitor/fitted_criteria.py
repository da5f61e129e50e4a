"""Define the criteria with a limit from a reference run: how each is fitted, stored, and made for a run.

The criteria that run are in :mod:`blipcalc.monitor.run_criteria`.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
from pydantic import Field, field_validator

from blipcalc.core.domain import Domain
from blipcalc.errors import LimitsError
from blipcalc.monitor.block_maxima import NS, PS, WINDOW_PS, ReferenceBlocks, checks
from blipcalc.monitor.fitted_criterion import (
    DISTANCE,
    RATIO,
    Budget,
    FittedCriterion,
    Passed,
    Watch,
    rate_text,
)
from blipcalc.monitor.run_criteria import EDetector, InstantThreshold, LatentDistanceThreshold, SmoothedThreshold
from blipcalc.settings import Positive
from blipcalc.stats.rates import Level, level_for_rate

#: warnings for each allowed false alarm
WARNINGS = 10
#: independent checks: fewest for p-values, and most that are stored
LEAST_REFERENCES, MOST_REFERENCES = 300, 3000


def _positive(level: Level) -> Level:
    """Return a limit above zero; raises ``ValueError`` for others, which every reading would exceed."""
    if level.value <= 0:
        raise ValueError(f"expected a limit > 0, got {level.value}")
    return level


class FittedInstantThreshold(FittedCriterion):
    """R at one check."""

    name: Literal["trip"] = "trip"
    limit: Passed = Field(description="on R")

    _above_zero = field_validator("limit")(_positive)

    @classmethod
    def fit(cls, reference: ReferenceBlocks, budget: Budget, domain_hash: str | None) -> Self | None:
        """Return the criterion fitted to the maxima of R over blocks; None for a run that is too short."""
        found = level_for_rate(*reference.maxima(RATIO.name), budget.rate_per_ns, budget.confidence)
        return None if found is None else cls(limit=found)

    @property
    def expected_rate(self) -> float:
        """Return the rate of the limit in the reference run, per ns."""
        return self.limit.rate

    def criterion(self, watch: Watch) -> InstantThreshold:
        """Return the criterion for a run."""
        return InstantThreshold(watch.ratio, self.limit.value)

    def ratio_limit(self) -> float:
        """Return the limit on R."""
        return self.limit.value

    def text(self, watch: Watch) -> str:
        """Return the limit and its rate in words."""
        tolerance = self.limit.value * watch.ratio.tolerance
        return f"R ≤ {self.limit.value:.4g}, a tolerance of {tolerance:.4g} eV/Å: {rate_text(self.limit)}"


class FittedSmoothedThreshold(FittedCriterion):
    """The geometric mean of R over a picosecond."""

    name: Literal["smoothed"] = "smoothed"
    limit: Passed = Field(description="on the logarithm of the mean")
    warning: Passed = Field(description="the same at ten times the rate, for warnings")

    @classmethod
    def fit(cls, reference: ReferenceBlocks, budget: Budget, domain_hash: str | None) -> Self | None:
        """Return the criterion fitted to the maxima of the mean over blocks; None for a run that is too short."""
        maxima = reference.maxima_of_mean(RATIO.name)
        limit, warning = (
            level_for_rate(*maxima, factor * budget.rate_per_ns, budget.confidence) for factor in (1, WARNINGS)
        )
        return None if limit is None or warning is None else cls(limit=limit, warning=warning)

    @property
    def expected_rate(self) -> float:
        """Return the rate of the limit in the reference run, per ns."""
        return self.limit.rate

    def criterion(self, watch: Watch) -> SmoothedThreshold:
        """Return the criterion for a run."""
        window = checks(WINDOW_PS * PS, watch.interval_fs)
        return SmoothedThreshold(watch.ratio, window, math.exp(self.limit.value), math.exp(self.warning.value))

    def text(self, watch: Watch) -> str:
        """Return the limit, its rate and the limit of warnings in words."""
        limit, warning = math.exp(self.limit.value), math.exp(self.warning.value)
        return f"mean of R over 1 ps ≤ {limit:.4g}: {rate_text(self.limit)}; a warning beyond {warning:.4g}"


class FittedEDetector(FittedCriterion):
    """Evidence that R is not what it was in the reference run."""

    name: Literal["evidence"] = "evidence"
    references: tuple[Positive, ...] = Field(description="R of independent checks", min_length=1)
    rate_per_ns: Positive = Field(description="of false alarms, at most")

    @classmethod
    def lacks(cls, reference: ReferenceBlocks) -> str:
        """Return how many independent checks are missing, in words; empty if there are enough."""
        n = len(reference.thinned(RATIO.name))
        return "" if n >= LEAST_REFERENCES else f"{n} independent checks, {LEAST_REFERENCES} are needed"

    @classmethod
    def fit(cls, reference: ReferenceBlocks, budget: Budget, domain_hash: str | None) -> Self | None:
        """Return the criterion with independent checks spread evenly over the run; None for a run that is too short.

        A run too short for a threshold on R at this rate does not bound the rate of the e-detector either.
        """
        if level_for_rate(*reference.maxima(RATIO.name), budget.rate_per_ns, budget.confidence) is None:
            return None
        values = reference.thinned(RATIO.name)
        picked = np.linspace(0, len(values) - 1, min(len(values), MOST_REFERENCES)).round().astype(int)
        return cls(references=tuple(values[picked].tolist()), rate_per_ns=budget.rate_per_ns)

    @property
    def expected_rate(self) -> float:
        """Return the upper bound on the rate of false alarms, per ns."""
        return self.rate_per_ns

    def criterion(self, watch: Watch) -> EDetector:
        """Return the criterion for a run."""
        every = checks(watch.memory_ps * PS, watch.interval_fs)
        length = NS / (self.rate_per_ns * every * watch.interval_fs)
        return EDetector(watch.ratio, np.array(self.references), every, length)

    def text(self, watch: Watch) -> str:
        """Return the number of checks and the bound on the rate in words."""
        return f"e-detector on {len(self.references)} independent checks: at most {self.rate_per_ns:.3g} per ns"


class FittedLatentDistance(FittedCriterion):
    """The latent distance from the data, whatever σ says."""

    name: Literal["distance"] = "distance"
    signal = DISTANCE
    limit: Passed = Field(description="on the largest latent distance")
    domain_hash: str = Field(description="of the domain that it is the distance from")

    _above_zero = field_validator("limit")(_positive)

    @classmethod
    def fit(cls, reference: ReferenceBlocks, budget: Budget, domain_hash: str | None) -> Self | None:
        """Return the criterion fitted to the maxima of the distance over blocks; None for a run that is too short."""
        found = level_for_rate(*reference.maxima(DISTANCE.name), budget.rate_per_ns, budget.confidence)
        if domain_hash is None:
            raise LimitsError(
                "a limit on the latent distance takes domain_hash=, of the domain that it is the distance from"
            )
        return None if found is None else cls(limit=found, domain_hash=domain_hash)

    @property
    def expected_rate(self) -> float:
        """Return the rate of the limit in the reference run, per ns."""
        return self.limit.rate

    def criterion(self, watch: Watch) -> LatentDistanceThreshold:
        """Return the criterion for a run."""
        return LatentDistanceThreshold(self.limit.value)

    def refusal(self, domain: Domain | None) -> str:
        """Return why the limit does not belong to a model with another domain, or none; empty if it does."""
        same = domain is not None and domain.hash == self.domain_hash
        return "" if same else "it says otherwise, or not at all, where its data were"

    def text(self, watch: Watch) -> str:
        """Return the limit and its rate in words."""
        return f"latent distance from the data ≤ {self.limit.value:.4g}: {rate_text(self.limit)}; asks no variance"
