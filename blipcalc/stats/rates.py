"""Rates of rare events: a rate from a number of events in a time, and how often a level is passed.

| symbol | meaning |
|---|---|
| M_1 … M_n | maxima of n independent blocks of length b |
| L_j | the j-th largest of them |
| p(L) | probability that the maximum of a new block exceeds L |
| λ(L) | rate at which a run passes L: it stays below L for a time t with probability exp(-λ t) |

A run of k blocks stays below L with probability (1 - p)^k, hence

    λ = -ln(1 - p) / b,

which is p / b only for small p: a maximum does not tell how often its block exceeded L.  For any continuous law
p(L_j) ~ Beta(j, n + 1 - j), so that

    E λ(L_j) = (1/b) Σ_{i = n+1-j}^{n} 1/i,

and quantiles of λ follow from those of p.  Where j of n blocks exceed a given level, j is binomial, and the same sum is an
estimate of -ln(1 - p) with bias Σ_{i > n} p^i / i.  A level that no block exceeds is passed less often than 3.0 / (n b) with
confidence 0.95.  A run that continues after an event counts as a new run once its memory of the event has decayed: see
:func:`events_at_risk`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma
from scipy.stats import beta, binomtest, chi2


def poisson_interval(events: int, exposure: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return exact two-sided limits of a rate, in 1 / unit of the exposure.

    source : Garwood 1936, doi:10.2307/2333958
    """
    _check_confidence(confidence)
    _check_events(events, exposure)
    tail = (1 - confidence) / 2
    low = chi2.ppf(tail, 2 * events) / 2 if events else 0.0
    return float(low / exposure), float(chi2.ppf(1 - tail, 2 * events + 2) / 2 / exposure)


def same_rate(events: int, exposure: float, other_events: int, other_exposure: float) -> float:
    """Return the p-value of equal rates: given their sum, events are binomial with the fraction of their exposure.

    source : Przyborowski, Wilenski 1940, doi:10.1093/biomet/31.3-4.313
    """
    if events + other_events == 0:
        return 1.0
    return float(binomtest(events, events + other_events, exposure / (exposure + other_exposure)).pvalue)


def events_at_risk(beyond: ArrayLike, memory: int) -> tuple[int, int]:
    """Return the number of events in a series of checks, and the number of checks at risk; their ratio is λ per check.

    Checks within the memory of an event carry no new information: they are neither events nor at risk.

    beyond : (n,) whether a level was passed at each check; memory : in checks, 0 for independent ones
    """
    flags = np.asarray(beyond, dtype=bool)
    events, lost, free = 0, 0, 0
    for k in np.flatnonzero(flags):
        if k >= free:
            events, free = events + 1, int(k) + 1 + memory
            lost += min(memory, len(flags) - int(k) - 1)
    return events, len(flags) - lost


@dataclass(frozen=True)
class Level:
    """A level of a statistic and the rate at which it is passed.

    value : in the unit of the maxima
    rate : expected λ, per unit of the block's length; interval : of the rate, two-sided; bound : of the rate, one-sided
    confidence : of interval and bound
    n_blocks, exposure : number of blocks, and their total length
    n_beyond : number of reference blocks at or above the level
    """

    value: float
    rate: float
    interval: tuple[float, float]
    bound: float
    confidence: float
    n_blocks: int
    exposure: float
    n_beyond: int


def level_for_rate(maxima: ArrayLike, block: float, rate: float, confidence: float = 0.95) -> Level | None:
    """Return the lowest level passed less often than ``rate`` with the given confidence; None where the data do not suffice.

    maxima : (n,) of independent blocks; block : their length; rate : per unit of that length
    """
    values, n = _checked(maxima, block, rate, confidence)
    ranks = np.arange(1, n + 1)
    bounds = _rate(beta.ppf(confidence, ranks, n + 1 - ranks), block)
    carried = int(np.count_nonzero(bounds <= rate))
    return None if carried == 0 else _at_rank(values, carried, block, confidence)


def exposure_needed(rate: float, confidence: float = 0.95) -> float:
    """Return the length of a reference without events that bounds a rate, for any block: -ln(1 - confidence) / rate."""
    _check_confidence(confidence)
    return -math.log1p(-confidence) / rate


def rate_of_level(
    maxima: ArrayLike, block: float, level: float, confidence: float = 0.95, most: float = math.inf
) -> Level:
    """Return the rate at which a given level is passed, from the blocks above it, with the exact limits of their fraction.

    most : largest possible rate, such as an event at every check; without it a level below all blocks has no upper limit
    source : Clopper, Pearson 1934, doi:10.1093/biomet/26.4.404
    """
    values, n = _checked(maxima, block, 1.0, confidence)
    beyond = int(np.count_nonzero(~(values <= level)))
    low, _, _ = _limits(beyond, n, confidence)
    _, high, bound = _limits(beyond + 1, n, confidence)
    found = _level(level, beyond, n, block, (low, high, bound), confidence)
    low, high = (min(most, limit) for limit in found.interval)
    return replace(found, rate=min(most, found.rate), interval=(low, high), bound=min(most, found.bound))


def _at_rank(values: np.ndarray, rank: int, block: float, confidence: float) -> Level:
    """Return the level of the rank-th largest of the maxima, in falling order."""
    return _level(float(values[rank - 1]), rank, len(values), block, _limits(rank, len(values), confidence), confidence)


def _limits(rank: int, n: int, confidence: float) -> tuple[float, float, float]:
    """Return both limits and the one-sided bound of p ~ Beta(rank, n + 1 - rank): 0 for rank below 1, 1 for rank above n."""
    if not 1 <= rank <= n:
        return (0.0,) * 3 if rank < 1 else (1.0,) * 3
    tail = (1 - confidence) / 2
    low, high, bound = beta.ppf([tail, 1 - tail, confidence], rank, n + 1 - rank)
    return float(low), float(high), float(bound)


def _level(
    value: float, beyond: int, n: int, block: float, limits: tuple[float, float, float], confidence: float
) -> Level:
    """Return a level with the rates of its probabilities."""
    low, high, bound = (_rate(p, block) for p in limits)
    expected = float(digamma(n + 1) - digamma(n + 1 - beyond)) / block
    return Level(value, expected, (float(low), float(high)), float(bound), confidence, n, n * block, beyond)


def _rate(p: ArrayLike, block: float) -> np.ndarray:
    """Return λ = -ln(1 - p) / b."""
    with np.errstate(divide="ignore"):
        return -np.log1p(-np.asarray(p, dtype=np.float64)) / block


def _checked(maxima: ArrayLike, block: float, rate: float, confidence: float) -> tuple[np.ndarray, int]:
    values = np.asarray(maxima, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or np.isnan(values).any():
        raise ValueError(f"expected maxima of shape (n,) without NaN, got {values.shape}")
    if not (block > 0 and rate > 0):
        raise ValueError(f"expected a block and a rate > 0, got {block} and {rate}")
    _check_confidence(confidence)
    return np.sort(values)[::-1], values.size


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")


def _check_events(events: int, exposure: float) -> None:
    if events < 0 or not exposure > 0:
        raise ValueError(f"expected events >= 0 in an exposure > 0, got {events} in {exposure}")
