"""Rates of rare events: what a number of events in a time says, and which level is passed how often.

| symbol | meaning |
|---|---|
| M_1 … M_n | maxima of n independent blocks of length b |
| L_j | the j-th largest of them |
| p(L) | probability that the maximum of a new block is beyond L |
| λ(L) | rate at which a run passes L: it stays below L for a time t with probability exp(-λ t) |

A run of k blocks stays below L with probability (1 - p)^k, hence

    λ = -ln(1 - p) / b,

which is p / b only where p is small: a maximum does not say how often its block was beyond L.  For a continuous law
p(L_j) ~ Beta(j, n + 1 - j), whatever the law, so that

    E λ(L_j) = (1/b) Σ_{i = n+1-j}^{n} 1/i,

and quantiles of λ follow from those of p.  Of a given level that j of n blocks are beyond, j is binomial, and the same sum is an
estimate of -ln(1 - p) whose bias is Σ_{i > n} p^i / i.  A level that no block was beyond is passed less often than
3.0 / (n b) with confidence 0.95.  A run that goes on after an event is one that begins anew once it has forgotten it: see
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
    """Exact two-sided limits of a rate, in 1 / unit of the exposure.

    source : Garwood 1936, doi:10.2307/2333958
    """
    _check_confidence(confidence)
    _check_events(events, exposure)
    tail = (1 - confidence) / 2
    low = chi2.ppf(tail, 2 * events) / 2 if events else 0.0
    return float(low / exposure), float(chi2.ppf(1 - tail, 2 * events + 2) / 2 / exposure)


def same_rate(events: int, exposure: float, other_events: int, other_exposure: float) -> float:
    """p-value of equal rates: given their sum, events are binomial with the share of their exposure.

    source : Przyborowski, Wilenski 1940, doi:10.1093/biomet/31.3-4.313
    """
    if events + other_events == 0:
        return 1.0
    return float(binomtest(events, events + other_events, exposure / (exposure + other_exposure)).pvalue)


def events_at_risk(beyond: ArrayLike, memory: int) -> tuple[int, int]:
    """Events in a series of checks, and the number of checks at which one could have come: their ratio is λ per check.

    Checks within the memory of an event tell nothing new: they make no event of their own, and are no time at risk.

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
    """A level on a statistic and how often it is passed.

    value : in the unit of the maxima
    rate : λ as it is to be expected, per unit of the block's length; interval : of the rate, two-sided; bound : of the rate,
        one-sided
    confidence : of interval and bound
    n_blocks, exposure : how many blocks, and how long they are together
    n_beyond : blocks of the reference at or beyond it
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
    """The lowest level that is passed less often than ``rate`` with the given confidence; None where no data carry that.

    maxima : (n,) of independent blocks; block : their length; rate : per unit of that length
    """
    values, n = _checked(maxima, block, rate, confidence)
    ranks = np.arange(1, n + 1)
    bounds = _rate(beta.ppf(confidence, ranks, n + 1 - ranks), block)
    carried = int(np.count_nonzero(bounds <= rate))
    return None if carried == 0 else _at_rank(values, carried, block, confidence)


def exposure_needed(rate: float, confidence: float = 0.95) -> float:
    """How long a reference without a single event must be to bound a rate, whatever the block: -ln(1 - confidence) / rate."""
    _check_confidence(confidence)
    return -math.log1p(-confidence) / rate


def rate_of_level(
    maxima: ArrayLike, block: float, level: float, confidence: float = 0.95, most: float = math.inf
) -> Level:
    """How often a given level is passed: blocks beyond it, with the exact limits of their share.

    most : rate that no other exceeds, such as an event at every check; without it a level that all blocks are beyond has no upper
        limit
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
    """The rank-th largest of the maxima, falling."""
    return _level(float(values[rank - 1]), rank, len(values), block, _limits(rank, len(values), confidence), confidence)


def _limits(rank: int, n: int, confidence: float) -> tuple[float, float, float]:
    """Both limits and the one-sided bound of p ~ Beta(rank, n + 1 - rank), which is 0 for no rank and 1 for one beyond all."""
    if not 1 <= rank <= n:
        return (0.0,) * 3 if rank < 1 else (1.0,) * 3
    tail = (1 - confidence) / 2
    low, high, bound = beta.ppf([tail, 1 - tail, confidence], rank, n + 1 - rank)
    return float(low), float(high), float(bound)


def _level(
    value: float, beyond: int, n: int, block: float, limits: tuple[float, float, float], confidence: float
) -> Level:
    """A level with the rates of its probabilities."""
    low, high, bound = (_rate(p, block) for p in limits)
    expected = float(digamma(n + 1) - digamma(n + 1 - beyond)) / block
    return Level(value, expected, (float(low), float(high)), float(bound), confidence, n, n * block, beyond)


def _rate(p: ArrayLike, block: float) -> np.ndarray:
    """λ = -ln(1 - p) / b."""
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
