"""Limits with a stated rate of false halts, from a reference run without labels.

A reference run is one that is trusted: MD at the state of interest, which nobody would want to be stopped.  Whatever stops it
is a false halt.  Many short replicas count as one long run.

| step | how |
|---|---|
| R_t of every check | :class:`~blipcalc.monitor.run_criteria.HaltRatio` |
| memory of ln R | statistical inefficiency g, not below 1 ps |
| maxima over independent blocks of 2 g or more | limits of the channels that halt by level; never quantiles of single checks |
| budget | the wanted rate is shared among channels, and the confidence too (Bonferroni) |

The limit is the lowest that is passed less often than the budget with the wanted confidence; where the run is too short for
that, there is no limit but an error that says how long it must be.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from ase.data import atomic_numbers
from pydantic import AfterValidator, Field, model_validator

from blipcalc.core.domain import Domain
from blipcalc.core.prediction import Calibration
from blipcalc.errors import ConfigurationError, LimitsError
from blipcalc.files.json_file import Kind, read_json, write_json
from blipcalc.monitor.block_maxima import NS, PS, WINDOW_PS, ReferenceBlocks, checks
from blipcalc.monitor.criteria import Trigger
from blipcalc.monitor.run_criteria import Evidence, HaltRatio, Outside, Smoothed, Trip
from blipcalc.settings import AtLeastOne, Fraction, Positive, Settings, checked, number
from blipcalc.stats.rates import Level, exposure_needed, level_for_rate, rate_of_level
from blipcalc.stats.shift import Shifted

ChannelName = Literal["trip", "smoothed", "evidence", "distance"]
CHANNELS: tuple[ChannelName, ...] = ("trip", "smoothed", "evidence", "distance")
#: expected halts in a block, beyond which maxima of blocks count none of them
MOST_PER_BLOCK = 0.5
#: warnings for each false halt that may be
WARNINGS = 10
#: independent checks that p-values take at least, and as many as are kept
LEAST_REFERENCES, MOST_REFERENCES = 300, 3000


#: as a file
LIMITS = Kind("limits", "make limits anew with 'blipcalc check'", LimitsError)


def _sensible(level: Level) -> Level:
    """Refuse a level whose figures cannot be."""
    rates = (level.rate, *level.interval, level.bound)
    counts = level.n_blocks >= 1 and 0 <= level.n_beyond <= level.n_blocks
    if not (min(rates) >= 0 and 0 < level.confidence < 1 and counts and level.exposure > 0):
        raise ValueError(
            "expected rates ≥ 0, a confidence between 0 and 1, an exposure > 0 and no more blocks beyond than there are"
        )
    return level


def _symbol(symbol: str) -> str:
    """Refuse what is no element."""
    if atomic_numbers.get(symbol, 0) < 1:
        raise ValueError("expected the symbol of an element")
    return symbol


Passed = Annotated[Level, AfterValidator(_sensible)]
Symbol = Annotated[str, AfterValidator(_symbol)]


class Identity(Settings):
    """The calibrated predictor that limits belong to."""

    model_hash: str
    surface: str
    n_draws: int
    seed: int
    frames_hash: str

    @classmethod
    def of_calibration(cls, calibration: Calibration) -> Self:
        """That of a calibration."""
        return cls(**{name: getattr(calibration, name) for name in cls.model_fields})


class Limits(Settings):
    """Limits on R_t for one calibrated predictor, one tolerance and one interval between checks."""

    identity: Identity
    tolerance: Positive = Field(description="ε_tol, eV/Å, a norm")
    level: Fraction = Field(description="of the quantiles")
    quantiles: dict[Symbol, Positive] = Field(description="{symbol: q_atom}", min_length=1)
    rate_per_ns: Positive = Field(description="largest rate of false halts that all channels together may have")
    confidence: Fraction = Field(description="that the true rate is not higher")
    interval_fs: Positive = Field(description="between checks")
    inefficiency_ps: Positive = Field(description="g of ln R, not below 1 ps")
    block_ps: Positive
    n_replicas: AtLeastOne
    reference_ns: Positive = Field(description="in whole blocks")
    at_tolerance: Passed = Field(description="how often R passes 1 in the reference run")
    trip: Passed | None = Field(description="limit on R; None where the channel was not asked for")
    smoothed: Passed | None = Field(description="limit on the logarithm of the geometric mean of R over a window")
    warning: Passed | None = Field(description="the same at ten times the rate, for warnings")
    distance: Passed | None = Field(None, description="limit on the largest latent distance from the data")
    domain_hash: str | None = Field(None, description="of the domain that it is the distance from")
    evidence: tuple[Positive, ...] = Field(description="R of independent checks; empty without the channel")
    frames: Shifted | None = Field(
        None, description="quantile of the largest score of a frame, as in the reference run"
    )
    notes: tuple[str, ...] = Field((), description="what was left out, and why")

    @model_validator(mode="after")
    def _watches(self) -> Self:
        if not self.n_channels:
            raise ValueError("expected at least one channel: limits without any would let everything pass")
        if (self.smoothed is None) != (self.warning is None):
            raise ValueError(
                "expected a limit for warnings beside the one of smoothed R, and neither without the other"
            )
        if self.distance is not None and self.domain_hash is None:
            raise ValueError("expected the hash of the domain that the latent distance is from")
        beyond = [level for level in (self.trip, self.distance) if level is not None and level.value <= 0]
        if beyond or self.at_tolerance.value <= 0:
            raise ValueError("expected limits > 0 on R and on the latent distance")
        return self

    @property
    def budget_per_ns(self) -> float:
        """The rate that each channel may have."""
        return self.rate_per_ns / self.n_channels

    @property
    def n_channels(self) -> int:
        """How many there are."""
        return sum(1 for channel in (*self._levels, *([self.evidence] if self.evidence else [])))

    @property
    def hash(self) -> str:
        """SHA-256 by which a run knows its limits."""
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()

    @property
    def _levels(self) -> list[Level]:
        """Those of the channels that halt by level."""
        return [level for level in (self.trip, self.smoothed, self.distance) if level is not None]

    @property
    def expected_rate(self) -> float:
        """False halts per ns that are to be expected of all channels, at most."""
        return sum(level.rate for level in self._levels) + (self.budget_per_ns if self.evidence else 0.0)

    def channels(self) -> tuple[Trigger, ...]:
        """The rules, their memories empty."""
        ratio, found = HaltRatio(self.quantiles, self.tolerance), []
        if self.trip is not None:
            found.append(Trip(ratio, self.trip.value))
        if self.smoothed is not None:
            window = checks(WINDOW_PS * PS, self.interval_fs)
            found.append(Smoothed(ratio, window, math.exp(self.smoothed.value), math.exp(self.warning.value)))
        if self.evidence:
            every = checks(self.inefficiency_ps * PS, self.interval_fs)
            length = NS / (self.budget_per_ns * every * self.interval_fs)
            found.append(Evidence(ratio, np.array(self.evidence), every, length))
        if self.distance is not None:
            found.append(Outside(self.distance.value))
        return tuple(found)

    def every(self, timestep_fs: float, asked: int | None = None) -> int:
        """Steps between checks; raises :class:`LimitsError` where whole steps, or those asked for, do not make the interval."""
        steps = self.interval_fs / timestep_fs
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6 * steps:
            raise LimitsError(
                f"these limits are for a check every {self.interval_fs:g} fs, which is not a whole number of steps of "
                f"{timestep_fs:g} fs; choose another timestep, or make limits from a reference run checked otherwise"
            )
        if asked not in (None, round(steps)):
            raise LimitsError(
                f"these limits are for a check every {self.interval_fs:g} fs, every={round(steps)} here, not {asked}; leave "
                "every= out"
            )
        return round(steps)

    def check_identity(self, calibration: Calibration | None, domain: Domain | None = None) -> None:
        """Refuse, with :class:`LimitsError`, a predictor that they were not made for."""
        if calibration is None:
            raise LimitsError("these limits are for a calibrated calculator, and this one has no calibration")
        now = Identity.of_calibration(calibration)
        other = [
            f"{name} is {getattr(now, name)!r}, expected {getattr(self.identity, name)!r}"
            for name in Identity.model_fields
            if getattr(now, name) != getattr(self.identity, name)
        ]
        if self.distance is not None and (domain is None or domain.hash != self.domain_hash):
            other.append("it says otherwise, or not at all, where its data were")
        if other:
            raise LimitsError(f"these limits belong to another calculator: {'; '.join(other)}; run 'blipcalc check'")

    def save(self, path: str | Path) -> None:
        """Write them as sealed JSON."""
        write_json(path, LIMITS, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """From :meth:`save`.

        raises : LimitsError for a file that holds something else, or limits that cannot be; DamagedFileError for one that was
            changed since
        """
        return checked(cls, read_json(path, LIMITS), f"{path} holds no limits", error=LimitsError)


def fit_limits(
    replicas: Sequence[np.ndarray],
    interval_fs: float,
    calibration: Calibration,
    quantiles: dict[str, float],
    *,
    tolerance: float,
    level: float = 0.95,
    rate_per_ns: float = 0.1,
    confidence: float = 0.95,
    channels: Sequence[ChannelName] | None = None,
    distances: Sequence[np.ndarray] | None = None,
    domain_hash: str | None = None,
    frames: Shifted | None = None,
) -> Limits:
    """Limits from R_t of replicas of a reference run.

    Parameters
    ----------
    replicas : series (checks,) of R, one for each replica
    interval_fs : between checks, as in the runs to be guarded
    calibration, quantiles, tolerance, level : what R was made with
    rate_per_ns : wanted rate of false halts, of all channels together
    confidence : that the true rate is not higher, as far as the reference run is like the runs to be guarded
    channels : those to use, None for all that there are values for; fewer of them need less reference
    distances : the same of the largest latent distance, and the hash of the domain that they are from
    frames : what labelled frames say of frames of the reference run, to be kept with the limits

    Raises
    ------
    ConfigurationError : senseless settings
    LimitsError : R that is not finite, replicas that are the same or shorter than twice their memory, a run too short for the
        claim, or a rate so high that it means nothing
    """
    check_settings(
        interval_fs, rate_per_ns, confidence, channels, tolerance, level, has_distances=distances is not None
    )
    if channels is None:
        channels = [name for name in CHANNELS if name != "distance" or distances is not None]
    reference = ReferenceBlocks.of(replicas, distances if "distance" in channels else None, interval_fs)
    kept, notes = list(channels), list(reference.notes)
    if "evidence" in kept and len(reference.thinned) < LEAST_REFERENCES:
        kept.remove("evidence")
        notes.append(f"no evidence channel: {len(reference.thinned)} independent checks, {LEAST_REFERENCES} are needed")
    if not kept:
        raise LimitsError(f"no channel is left: {notes[-1]}; give more reference, or other channels")
    budget, share = rate_per_ns / len(kept), 1 - (1 - confidence) / len(kept)
    if budget * reference.block_ns > MOST_PER_BLOCK:
        raise LimitsError(
            f"{rate_per_ns:g} false halts per ns is one in every few memories of {reference.memory_ps:.2g} ps, which no limit "
            f"can mean; ask for {MOST_PER_BLOCK / reference.block_ns * len(kept):.2g} per ns or fewer"
        )
    levels: dict[str, Level] = {}
    for name in kept:
        values, length = reference.maxima(name)
        found = level_for_rate(values, length, budget, share)
        if found is None:  # nor does a reference without an alarm bound the rate of the e-detector on it
            raise LimitsError(_too_short(len(values) * length, rate_per_ns, budget, share, kept))
        levels[name] = found
    maxima, block_ns = reference.maxima("trip")
    return Limits(
        identity=Identity.of_calibration(calibration),
        tolerance=tolerance,
        level=level,
        quantiles=quantiles,
        rate_per_ns=rate_per_ns,
        confidence=confidence,
        interval_fs=interval_fs,
        inefficiency_ps=reference.memory_ps,
        block_ps=block_ns * NS / PS,
        n_replicas=len(reference.series),
        reference_ns=len(maxima) * block_ns,
        at_tolerance=rate_of_level(maxima, block_ns, 1.0, confidence, NS / interval_fs),
        trip=levels.get("trip"),
        smoothed=levels.get("smoothed"),
        warning=level_for_rate(*reference.maxima("smoothed"), WARNINGS * budget, share) if "smoothed" in kept else None,
        distance=levels.get("distance"),
        domain_hash=domain_hash if "distance" in kept else None,
        frames=frames,
        evidence=_some(reference.thinned) if "evidence" in kept else (),
        notes=tuple(notes),
    )


def _some(values: np.ndarray) -> tuple[float, ...]:
    """As many as are kept, spread evenly over the run."""
    picked = np.linspace(0, len(values) - 1, min(len(values), MOST_REFERENCES)).round().astype(int)
    return tuple(values[picked].tolist())


def _too_short(reference_ns: float, rate: float, budget: float, confidence: float, channels: Sequence[str]) -> str:
    needed = exposure_needed(budget, confidence)
    carried = rate * needed / reference_ns
    alone = exposure_needed(rate, 1 - (1 - confidence) * len(channels))
    return (
        f"{reference_ns:.3g} ns of reference cannot carry {rate:g} false halts per ns: {needed:.3g} ns are needed for channels "
        f"{', '.join(channels)} ({alone:.3g} ns for one of them alone). Run more replicas, or ask for {carried:.2g} per ns or "
        "more"
    )


def check_settings(
    interval_fs: float,
    rate: float,
    confidence: float,
    channels: Sequence[Any] | None,
    tolerance: float,
    level: float,
    *,
    has_distances: bool,
) -> None:
    """Refuse senseless ones with :class:`ConfigurationError`."""
    for name, value in (
        ("interval_fs", interval_fs),
        ("rate_per_ns", rate),
        ("tolerance", tolerance),
        ("level", level),
    ):
        number(name, value, above=0.0)
    if not 1e-6 <= number("confidence", confidence) < 1:
        raise ConfigurationError(f"confidence={confidence}; expected a number from 1e-6 to 1, below 1")
    if channels is None:
        return
    known = isinstance(channels, (list, tuple)) and all(isinstance(name, str) and name in CHANNELS for name in channels)
    if not known or not channels:
        raise ConfigurationError(f"channels={channels!r}; expected some of {', '.join(CHANNELS)}")
    if "distance" in channels and not has_distances:
        raise ConfigurationError(
            "a channel for the latent distance takes a model that says where its data were; 'blipcalc domain' adds it to its file"
        )
