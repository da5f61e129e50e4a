"""Time series of one number: memory, running mean and largest values.

Checks every 10 fs of a signal with a memory of 3 ps are not independent: rules for independent values, applied to all of them,
halt a run hundreds of times per nanosecond.  Either thin by the statistical inefficiency, or calibrate on maxima of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blipcalc.stats.spread import spread

Array = NDArray[np.float64]

#: sum of two autocorrelations, over the last tenth of the longest replica, below which the memory counts as ended there
ENDED = 0.15


def _series(replicas: Sequence[ArrayLike]) -> list[Array]:
    """Return replicas as arrays (n, d); raises ValueError where one is empty or not finite."""
    found = [np.asarray(values, dtype=np.float64) for values in replicas]
    if not found or any(values.ndim not in (1, 2) or values.size == 0 for values in found):
        raise ValueError(
            f"expected one or more series of shape (n,) or (n, d), got {[values.shape for values in found]}"
        )
    found = [values.reshape(len(values), -1) for values in found]
    if not all(np.isfinite(values).all() for values in found):
        raise ValueError("a series holds values that are not finite; cut it before them")
    return found


def autocorrelation(replicas: Sequence[ArrayLike]) -> Array:
    """Return ρ(k) of replicas of one process around their common mean, for k below the length of the longest.

        ρ(k) = c(k) / c(0),   c(k) = Σ_r Σ_t δ_t · δ_{t+k} / Σ_r (n_r - k),   over replicas that are longer than k

    replicas : series (n_r,), or (n_r, d) of vectors, whose components count by their variance
    returns : (max n_r,); ones where the series is constant
    """
    series = _series(replicas)
    mean, longest = np.concatenate(series).mean(axis=0), max(len(values) for values in series)
    total, counts = np.zeros(longest), np.zeros(longest)
    for values in series:
        n = len(values)
        spectrum = np.fft.rfft(values - mean, 1 << (2 * n - 1).bit_length(), axis=0)
        total[:n] += np.fft.irfft((np.abs(spectrum) ** 2).sum(axis=1))[:n]
        counts[:n] += n - np.arange(n)
    covariance = total / counts
    return covariance / covariance[0] if covariance[0] > 0 else np.ones(longest)


def statistical_inefficiency(replicas: Sequence[ArrayLike]) -> float:
    """Return the number of correlated values that weigh as much as one independent value: g = 1 + 2 Σ_k ρ(k).

    The sum ends at the first pair ρ(2m) + ρ(2m + 1) that is not positive, and pairs may not grow (the initial monotone
    sequence), since later terms are noise.

    replicas : series (n_r,) or (n_r, d) of one process
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
    """Return means of the last ``window`` values; (n,) -> (n - window + 1,), empty where there are fewer."""
    series = np.asarray(values, dtype=np.float64)
    if window < 1:
        raise ValueError(f"expected a window of at least one value, got {window}")
    if len(series) < window:
        return np.empty(0)
    sums = np.concatenate([[0.0], np.cumsum(series)])
    return (sums[window:] - sums[:-window]) / window


def block_maxima(replicas: Sequence[ArrayLike], block: int) -> Array:
    """Return the largest value of every complete block of ``block`` values, replica after replica; remainders are dropped."""
    if block < 1:
        raise ValueError(f"expected blocks of at least one value, got {block}")
    whole = [np.asarray(values, dtype=np.float64) for values in replicas]
    return np.concatenate([v[: len(v) // block * block].reshape(-1, block).max(axis=1) for v in whole])


def blocks(lengths: Sequence[int], least: float) -> list[NDArray[np.intp]]:
    """Cut replicas, laid end to end, into blocks of nearly equal length, none across two replicas.

    lengths : n_r; least : least number of values in a block; a shorter replica is one block
    returns : indices of each block
    """
    starts = np.cumsum([0, *lengths[:-1]])
    return [
        part
        for start, n in zip(starts, lengths, strict=True)
        for part in np.array_split(np.arange(start, start + n), max(1, int(n // least)))
    ]


def jackknife(estimator: Callable[[NDArray[np.intp]], Array], parts: Sequence[NDArray[np.intp]]) -> Array:
    """Return the sampling error of an estimator of correlated values, by leaving out one block after the other.

        var = (B - 1) / B · Σ_b (θ_b - mean θ_b)²

    For a plain mean it equals that of block averages.  Blocks of m times the memory give a variance too small by about 1 / 2m.

    estimator : indices of values -> number or array, in some unit u
    parts : B ≥ 2 blocks, see :func:`blocks`
    returns : standard error, in u
    raises : ValueError for fewer than two blocks
    source : Künsch 1989, doi:10.1214/aos/1176347265; blocks as in Flyvbjerg and Petersen 1989, doi:10.1063/1.457480
    """
    if len(parts) < 2:
        raise ValueError(f"expected two blocks or more, got {len(parts)}")
    without = [np.concatenate([part for other, part in enumerate(parts) if other != b]) for b in range(len(parts))]
    _, variance = spread([estimator(kept) for kept in without])
    return np.sqrt(variance) * (len(parts) - 1) / np.sqrt(len(parts))
