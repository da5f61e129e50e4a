"""Limits with a stated rate of false halts, from a reference run without labels.

A reference run is one that is trusted: MD at the state of interest, which nobody would want to be stopped.  Whatever stops it
is a false halt.  Many short replicas count as one long run.

| step | how |
|---|---|
| R_t of every check | :class:`~blipcalc.monitor.channels.HaltRatio` |
| memory of ln R | statistical inefficiency g, not below 1 ps |
| maxima over independent blocks of 2 g or more | limits of the channels that halt by level; never quantiles of single checks |
| budget | the wanted rate is shared among channels, and the confidence too (Bonferroni) |

The limit is the lowest that is passed less often than the budget with the wanted confidence; where the run is too short for
that, there is no limit but an error that says how long it must be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from blipcalc.core.prediction import Calibration
from blipcalc.errors import ConfigurationError, LimitsError
from blipcalc.monitor.channels import SMALLEST, Evidence, HaltRatio, Smoothed, Trip
from blipcalc.monitor.triggers import Trigger
from blipcalc.sealed import write_atomically
from blipcalc.settings import Settings, number
from blipcalc.stats.rates import Level, exposure_needed, level_for_rate, rate_of_level
from blipcalc.stats.series import block_maxima, moving_average, statistical_inefficiency

ChannelName = Literal["trip", "smoothed", "evidence"]
CHANNELS: tuple[ChannelName, ...] = ("trip", "smoothed", "evidence")
#: ps: window of the smoothed channel, and the least that g is taken for
WINDOW_PS = FLOOR_PS = 1.0
#: expected halts in a block, beyond which maxima of blocks count none of them
MOST_PER_BLOCK = 0.5
#: warnings for each false halt that may be
WARNINGS = 10
#: independent checks that p-values take at least, and as many as are kept
LEAST_REFERENCES, MOST_REFERENCES = 300, 3000
PS, NS = 1e3, 1e6  # fs


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

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    identity: Identity
    tolerance: float = Field(description="ε_tol, eV/Å, a norm")
    level: float = Field(description="of the quantiles")
    quantiles: dict[str, float] = Field(description="{symbol: q_atom}")
    rate_per_ns: float = Field(description="wanted rate of false halts, of all channels together")
    confidence: float = Field(description="that the true rate is not higher")
    interval_fs: float = Field(description="between checks")
    inefficiency_ps: float = Field(description="g of ln R, not below 1 ps")
    block_ps: float
    n_replicas: int
    reference_ns: float = Field(description="in whole blocks")
    at_tolerance: Level = Field(description="how often R passes 1 in the reference run")
    trip: Level | None = Field(description="limit on R; None where the channel was not asked for")
    smoothed: Level | None = Field(description="limit on the logarithm of the geometric mean of R over a window")
    warning: Level | None = Field(description="the same at ten times the rate, for warnings")
    evidence: tuple[float, ...] = Field(description="R of independent checks; empty without the channel")
    notes: tuple[str, ...] = Field((), description="what was left out, and why")

    @property
    def budget_per_ns(self) -> float:
        """The rate that each channel may have."""
        return self.rate_per_ns / self.n_channels

    @property
    def n_channels(self) -> int:
        """How many there are."""
        return sum(1 for channel in (self.trip, self.smoothed, self.evidence or None) if channel is not None)

    @property
    def expected_rate(self) -> float:
        """False halts per ns that are to be expected of all channels, at most."""
        levels = sum(level.rate for level in (self.trip, self.smoothed) if level is not None)
        return levels + (self.budget_per_ns if self.evidence else 0.0)

    def channels(self) -> tuple[Trigger, ...]:
        """The rules, their memories empty."""
        ratio, found = HaltRatio(self.quantiles, self.tolerance), []
        if self.trip is not None:
            found.append(Trip(ratio, self.trip.value))
        if self.smoothed is not None:
            window = _checks(WINDOW_PS * PS, self.interval_fs)
            found.append(Smoothed(ratio, window, math.exp(self.smoothed.value), math.exp(self.warning.value)))
        if self.evidence:
            every = _checks(self.inefficiency_ps * PS, self.interval_fs)
            length = NS / (self.budget_per_ns * every * self.interval_fs)
            found.append(Evidence(ratio, np.array(self.evidence), every, length))
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

    def check_identity(self, calibration: Calibration | None) -> None:
        """Refuse, with :class:`LimitsError`, a predictor that they were not made for."""
        if calibration is None:
            raise LimitsError("these limits are for a calibrated calculator, and this one has no calibration")
        now = Identity.of_calibration(calibration)
        other = [
            f"{name} is {getattr(now, name)!r}, expected {getattr(self.identity, name)!r}"
            for name in Identity.model_fields
            if getattr(now, name) != getattr(self.identity, name)
        ]
        if other:
            raise LimitsError(f"these limits belong to another calculator: {'; '.join(other)}; run 'blipcalc check'")

    def save(self, path: str | Path) -> None:
        """Write them as JSON."""
        write_atomically(Path(path), self.model_dump_json(indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """From :meth:`save`; raises :class:`LimitsError` for a file that holds something else."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise LimitsError(f"no limits at {path} ({error.strerror}); make them with 'blipcalc check'") from None
        except ValidationError as error:
            raise LimitsError(
                f"{path} holds no limits: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}"
            ) from None


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
    channels: Sequence[ChannelName] = CHANNELS,
) -> Limits:
    """Limits from R_t of replicas of a reference run.

    Parameters
    ----------
    replicas : series (checks,) of R, one for each replica
    interval_fs : between checks, as in the runs to be guarded
    calibration, quantiles, tolerance, level : what R was made with
    rate_per_ns : wanted rate of false halts, of all channels together
    confidence : that the true rate is not higher, as far as the reference run is like the runs to be guarded
    channels : those to use; fewer of them need less reference

    Raises
    ------
    ConfigurationError : senseless settings
    LimitsError : R that is not finite, replicas that are the same or shorter than twice their memory, a run too short for the
        claim, or a rate so high that it means nothing
    """
    check_settings(interval_fs, rate_per_ns, confidence, channels, tolerance, level)
    series = [np.asarray(values, dtype=np.float64) for values in replicas]
    if not series or not all(values.ndim == 1 and values.size for values in series):
        raise LimitsError(
            f"expected one or more replicas of (checks,) values of R, got {[values.shape for values in series]}"
        )
    if not all(np.isfinite(v).all() and (v >= 0).all() for v in series):
        raise LimitsError("R of the reference run is not finite: are all of its elements calibrated?")
    if len({values.tobytes() for values in series}) < len(series):
        raise LimitsError("two replicas are the same, value by value; give each a seed of its own")
    logs = [np.log(np.maximum(values, SMALLEST)) for values in series]
    g = max(FLOOR_PS, statistical_inefficiency(logs) * interval_fs / PS)
    wanted = _checks(2 * g * PS, interval_fs) if math.isfinite(g) else 0
    long = [values for values in series if wanted and len(values) >= wanted]
    if not long:
        raise LimitsError(
            f"the longest of {len(series)} replicas has {max(map(len, series)) * interval_fs / PS:.3g} ps, and R remembers "
            f"{g:.2g} ps: replicas take two memories, of 1 ps at least; give longer ones"
        )
    notes = []
    if len(long) < len(series):
        notes.append(f"{len(series) - len(long)} replicas shorter than {wanted * interval_fs / PS:.2g} ps are left out")
        series, logs = long, [np.log(np.maximum(values, SMALLEST)) for values in long]
    block = min(len(values) // (len(values) // wanted) for values in series)  # whole blocks fill equal replicas
    block_ns = block * interval_fs / NS
    thinned = np.concatenate([v[:: _checks(g * PS, interval_fs)] for v in series])
    kept = list(channels)
    if "evidence" in kept and len(thinned) < LEAST_REFERENCES:
        kept.remove("evidence")
        notes.append(f"no evidence channel: {len(thinned)} independent checks, {LEAST_REFERENCES} are needed")
    if not kept:
        raise LimitsError(f"no channel is left: {notes[-1]}; give more reference, or other channels")
    maxima = block_maxima(series, block)
    window = _checks(WINDOW_PS * PS, interval_fs)
    means = [moving_average(values, window) for values in logs]
    of_means = min(block, min(map(len, means)))  # a replica of one block has no mean for its first window
    by_level = {"trip": (maxima, block_ns), "smoothed": (block_maxima(means, of_means), of_means * interval_fs / NS)}
    budget, share = rate_per_ns / len(kept), 1 - (1 - confidence) / len(kept)
    if budget * block_ns > MOST_PER_BLOCK:
        raise LimitsError(
            f"{rate_per_ns:g} false halts per ns is one in every few memories of {g:.2g} ps, which no limit can mean; ask for "
            f"{MOST_PER_BLOCK / block_ns * len(kept):.2g} per ns or fewer"
        )
    levels: dict[str, Level] = {}
    for name in kept:
        values, length = by_level.get(name, by_level["trip"])
        found = level_for_rate(values, length, budget, share)
        if found is None:  # nor does a reference without an alarm bound the rate of the e-detector on it
            raise LimitsError(_too_short(len(values) * length, rate_per_ns, budget, share, kept))
        levels[name] = found
    warning = level_for_rate(*by_level["smoothed"], WARNINGS * budget, share) if "smoothed" in kept else None
    return Limits(
        identity=Identity.of_calibration(calibration),
        tolerance=tolerance,
        level=level,
        quantiles=quantiles,
        rate_per_ns=rate_per_ns,
        confidence=confidence,
        interval_fs=interval_fs,
        inefficiency_ps=g,
        block_ps=block * interval_fs / PS,
        n_replicas=len(series),
        reference_ns=len(maxima) * block_ns,
        at_tolerance=rate_of_level(maxima, block_ns, 1.0, confidence),
        trip=levels.get("trip"),
        smoothed=levels.get("smoothed"),
        warning=warning,
        evidence=_some(thinned) if "evidence" in kept else (),
        notes=tuple(notes),
    )


def _some(values: np.ndarray) -> tuple[float, ...]:
    """As many as are kept, spread evenly over the run."""
    picked = np.linspace(0, len(values) - 1, min(len(values), MOST_REFERENCES)).round().astype(int)
    return tuple(values[picked].tolist())


def _checks(duration_fs: float, interval_fs: float) -> int:
    """Checks that make a duration, at least one."""
    return max(1, round(duration_fs / interval_fs))


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
    interval_fs: float, rate: float, confidence: float, channels: Sequence[Any], tolerance: float, level: float
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
    known = isinstance(channels, (list, tuple)) and all(isinstance(name, str) and name in CHANNELS for name in channels)
    if not known or not channels:
        raise ConfigurationError(f"channels={channels!r}; expected some of {', '.join(CHANNELS)}")
