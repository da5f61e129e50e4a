"""Define the interface of criteria with a limit from a reference run, for limits, their file and the command line.

A criterion is a class that derives from :class:`FittedCriterion` and is registered by its name in
:data:`~blipcalc.registries.CRITERIA`; its fields are stored in ``limits.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator

from blipcalc.core.domain import Domain
from blipcalc.monitor.block_maxima import ReferenceBlocks
from blipcalc.monitor.decisions import CriterionFunction, Reading
from blipcalc.monitor.run_criteria import HaltRatio
from blipcalc.settings import Settings
from blipcalc.stats.rates import Level


def _sensible(level: Level) -> Level:
    """Return a level whose figures are possible; raises ``ValueError`` for others."""
    rates = (level.rate, *level.interval, level.bound)
    counts = level.n_blocks >= 1 and 0 <= level.n_beyond <= level.n_blocks
    if not (min(rates) >= 0 and 0 < level.confidence < 1 and counts and level.exposure > 0):
        raise ValueError(
            "expected rates ≥ 0, a confidence between 0 and 1, an exposure > 0 and no more blocks beyond than there are"
        )
    return level


Passed = Annotated[Level, AfterValidator(_sensible)]


@dataclass(frozen=True)
class Signal:
    """Number ≥ 0 that is read at every check.

    name : of the series
    value : of a reading, given the ratio of error bound to tolerance
    needs_domain : whether it needs latent distances, and so a model with a domain
    """

    name: str
    value: Callable[[HaltRatio, Reading], float]
    needs_domain: bool = False


#: R_t, the largest ratio of error bound to tolerance
RATIO = Signal("ratio", lambda ratio, reading: ratio.largest(reading))
#: the largest latent distance from the data
DISTANCE = Signal("latent_distance", lambda ratio, reading: reading.max_latent_distance, needs_domain=True)


@dataclass(frozen=True)
class Budget:
    """Rate of false alarms and confidence allotted to one criterion.

    rate_per_ns : of false alarms; confidence : that the true rate is not higher
    """

    rate_per_ns: float
    confidence: float


@dataclass(frozen=True)
class Watch:
    """Ratio, interval between checks and memory with which a run is watched.

    ratio : of error bound to tolerance
    interval_fs : between checks; memory_ps : correlation time g of the signals of the reference run
    """

    ratio: HaltRatio
    interval_fs: float
    memory_ps: float


class FittedCriterion(Settings):
    """Criterion as fitted to a reference run.

    name : under which it is registered; every class sets its default
    package : distribution that provides it; empty for blipcalc
    signal : read at every check
    """

    name: str
    package: str = ""
    signal: ClassVar[Signal] = RATIO

    @classmethod
    def lacks(cls, reference: ReferenceBlocks) -> str:
        """Return why a reference run is insufficient for this criterion, for a note; empty if it is sufficient."""
        return ""

    @classmethod
    def fit(cls, reference: ReferenceBlocks, budget: Budget, domain_hash: str | None) -> Self | None:
        """Return the criterion with the lowest limit within its budget; None for a run that is too short.

        domain_hash : of the domain from which latent distances are measured
        """
        raise NotImplementedError

    @property
    def expected_rate(self) -> float:
        """Return the expected rate of false alarms, per ns."""
        raise NotImplementedError

    def criterion(self, watch: Watch) -> CriterionFunction:
        """Return the criterion for a run, without memory of earlier readings."""
        raise NotImplementedError

    def refusal(self, domain: Domain | None) -> str:
        """Return why the limit does not belong to a model of this domain; empty if it does."""
        return ""

    def ratio_limit(self) -> float | None:
        """Return the largest R_t that passes; None if the criterion has no limit on R_t."""
        return None

    def text(self, watch: Watch) -> str:
        """Return one line that describes the criterion, with the limit in its unit."""
        return f"{self.expected_rate:.3g} false alarms per ns"


def rate_text(level: Level) -> str:
    """Return the rate of a level per ns in words, with its interval and confidence."""
    low, high = level.interval
    return f"{level.rate:.3g} per ns ({level.confidence:.3g}: {low:.2g} to {high:.2g})"
