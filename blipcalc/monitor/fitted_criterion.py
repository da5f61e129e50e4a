"""What a criterion with a limit from a reference run declares: all that limits, their file and the command line know of it.

A criterion is a class that derives from :class:`FittedCriterion` and is registered by its name in
:data:`~blipcalc.registries.CRITERIA`; its fields are what ``limits.json`` keeps of it.
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
    """Refuse a level whose figures cannot be."""
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
    """A number ≥ 0 that is read at every check.

    name : of the series
    value : of a reading, given the ratio of error bound to tolerance
    needs_domain : it takes latent distances, and so a model that says where its data were
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
    """What a criterion may spend.

    rate_per_ns : of false alarms; confidence : that its true rate is not higher
    """

    rate_per_ns: float
    confidence: float


@dataclass(frozen=True)
class Watch:
    """How a run is watched.

    ratio : of error bound to tolerance
    interval_fs : between checks; memory_ps : how long the signals of the reference run remember
    """

    ratio: HaltRatio
    interval_fs: float
    memory_ps: float


class FittedCriterion(Settings):
    """A criterion as a reference run has fitted it.

    name : under which it is registered; every class sets its own default
    package : distribution that it comes from; empty for our own
    signal : what it reads of every check
    """

    name: str
    package: str = ""
    signal: ClassVar[Signal] = RATIO

    @classmethod
    def lacks(cls, reference: ReferenceBlocks) -> str:
        """Why a reference run is of no use to it, for a note; empty where it is."""
        return ""

    @classmethod
    def fit(cls, reference: ReferenceBlocks, budget: Budget, domain_hash: str | None) -> Self | None:
        """The criterion with the lowest limit that keeps its budget; None for a run too short to say.

        domain_hash : of the domain that latent distances are from
        """
        raise NotImplementedError

    @property
    def expected_rate(self) -> float:
        """False alarms per ns that are to be expected."""
        raise NotImplementedError

    def criterion(self, watch: Watch) -> CriterionFunction:
        """What decides in a run, its memory empty."""
        raise NotImplementedError

    def refusal(self, domain: Domain | None) -> str:
        """Why it does not belong to a model of this domain; empty where it does."""
        return ""

    def ratio_limit(self) -> float | None:
        """The largest R_t that passes; None where none says it."""
        return None

    def text(self, watch: Watch) -> str:
        """One line for people, the limit in its unit."""
        return f"{self.expected_rate:.3g} false alarms per ns"


def rate_text(level: Level) -> str:
    """The rate of a level per ns, with its interval and the confidence in that."""
    low, high = level.interval
    return f"{level.rate:.3g} per ns ({level.confidence:.3g}: {low:.2g} to {high:.2g})"
