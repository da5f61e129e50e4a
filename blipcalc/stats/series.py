"""Time series of one number: how long it remembers, its running mean, its largest values.

A check every 10 fs of a signal that remembers 3 ps is no new check: rules made for independent values, fed with all of them,
stop a run hundreds of times per nanosecond.  Either thin by the statistical inefficiency, or calibrate on maxima of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: sum of two autocorrelations, over the last tenth of the longest replica, below which the memory is taken to end with it
ENDED = 0.15


def _series(replicas: Sequence[ArrayLike]) -> list[Array]:
    """Replicas as arrays of one axis; refused where one is empty or not finite."""
    found = [np.asarray(values, dtype=np.float64) for values in replicas]
    if not found or any(values.ndim != 1 or values.size == 0 for values in found):
        raise ValueError(f"expected one or more series of shape (n,), got {[values.shape for values in found]}")
    if not all(np.isfinite(values).all() for values in found):
        raise ValueError("a series holds values that are not finite; cut it before them")
    return found


def autocorrelation(replicas: Sequence[ArrayLike]) -> Array:
    """ρ(k) of replicas of one process around their common mean, for k below the length of the longest.

        ρ(k) = c(k) / c(0),   c(k) = Σ_r Σ_t δ_t δ_{t+k} / Σ_r (n_r - k),   over replicas that are longer than k

    replicas : series (n_r,)
    returns : (max n_r,); ones where the series is constant
    """
    series = _series(replicas)
    mean, longest = np.concatenate(series).mean(), max(len(values) for values in series)
    total, counts = np.zeros(longest), np.zeros(longest)
    for values in series:
        n = len(values)
        spectrum = np.fft.rfft(values - mean, 1 << (2 * n - 1).bit_length())
        total[:n] += np.fft.irfft(np.abs(spectrum) ** 2)[:n]
        counts[:n] += n - np.arange(n)
    covariance = total / counts
    return covariance / covariance[0] if covariance[0] > 0 else np.ones(longest)


def statistical_inefficiency(replicas: Sequence[ArrayLike]) -> float:
    """How many values of a series weigh as much as one independent value: g = 1 + 2 Σ_k ρ(k).

    The sum ends at the first pair ρ(2m) + ρ(2m + 1) that is not positive, and pairs may not grow (the initial monotone
    sequence), since what lies behind it is noise.

    replicas : series (n_r,) of one process
    returns : in values, >= 1; infinite where the memory outlasts the longest replica
    source : Geyer 1992, doi:10.1214/ss/1177011137; g as in Chodera et al. 2007, doi:10.1021/ct0502864
    """
    rho = autocorrelation(replicas)
    pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(axis=1)
    ended = pairs <= 0
    if not ended.any() and not pairs[-max(1, len(pairs) // 10) :].mean() < ENDED:
        return math.inf
    end = int(np.argmax(ended)) if ended.any() else len(pairs)
    return max(1.0, float(2.0 * np.minimum.accumulate(pairs[:end]).sum() - 1.0))


def moving_average(values: ArrayLike, window: int) -> Array:
    """Means of the last ``window`` values; (n,) -> (n - window + 1,), empty where there are fewer."""
    series = np.asarray(values, dtype=np.float64)
    if window < 1:
        raise ValueError(f"expected a window of at least one value, got {window}")
    if len(series) < window:
        return np.empty(0)
    sums = np.concatenate([[0.0], np.cumsum(series)])
    return (sums[window:] - sums[:-window]) / window


def block_maxima(replicas: Sequence[ArrayLike], block: int) -> Array:
    """The largest value of every whole block of ``block`` values, replica after replica; what is left of a replica is dropped."""
    if block < 1:
        raise ValueError(f"expected blocks of at least one value, got {block}")
    whole = [np.asarray(values, dtype=np.float64) for values in replicas]
    return np.concatenate([v[: len(v) // block * block].reshape(-1, block).max(axis=1) for v in whole])
