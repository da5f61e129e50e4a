"""Rank correlation of sigma and error, its ceiling, and the separation of two sets of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]

MINIMUM_GROUP = 3  # two points always correlate to +1 or -1


def _equally_long(**columns: ArrayLike) -> list[NDArray[Any]]:
    """Return the columns as one-dimensional arrays of one length."""
    arrays = [np.asarray(column) for column in columns.values()]
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(columns, arrays, strict=True))
        raise ValueError(f"expected one-dimensional arrays of one length, got {shapes}")
    return arrays


def spearman(sigma: ArrayLike, error: ArrayLike) -> float:
    """Return the Spearman rank correlation of sigma with the size of the error, ties at their mean rank.

    sigma : (n,) predicted standard deviations; error : (n,) absolute errors or norms, both on any scale
    returns : -1 to 1; NaN where one of the two is constant, has a NaN, or n < 2
    raises : ValueError for unequal shapes
    source : Spearman 1904, doi:10.2307/1412159
    """
    columns = _equally_long(sigma=sigma, error=error)
    if columns[0].size < 2 or any(np.isnan(column).any() for column in columns):
        return float("nan")
    first, second = (rankdata(column) - (columns[0].size + 1) / 2 for column in columns)
    norm = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / norm) if norm > 0 else float("nan")


def spearman_ceiling(sigma: ArrayLike, rng: np.random.Generator, dimension: int = 3, repeats: int = 20) -> float:
    """Return the mean rank correlation of a perfect model with these sigmas.

        rho_max = mean over repeats of rho(sigma_i, sigma_i ||g_i||),   g_i ~ N(0, 1) in ``dimension`` components

    It depends on the spread of sigma alone, so a low correlation may be ideal: report rho / rho_max.

    sigma : (n,); dimension : 3 for norms of force errors, 1 for scalar errors; repeats : replicates of the whole set
    returns : 0 to 1; NaN for constant sigmas
    raises : ValueError for dimension or repeats below 1
    """
    if dimension < 1 or repeats < 1:
        raise ValueError(f"expected dimension >= 1 and repeats >= 1, got {dimension} and {repeats}")
    (sigmas,) = _equally_long(sigma=sigma)
    norms = (np.linalg.norm(rng.standard_normal((sigmas.size, dimension)), axis=1) for _ in range(repeats))
    return float(np.mean([spearman(sigmas, sigmas * norm) for norm in norms]))


def spearman_within(sigma: ArrayLike, error: ArrayLike, groups: ArrayLike) -> float:
    """Return the rank correlation within groups such as elements, averaged with one weight per group.

    A correlation pooled over elements may only show that one element is harder than another.

    sigma, error, groups : (n,)
    returns : -1 to 1; groups of fewer than 3 points or of constant sigma (or error) are skipped, NaN where none is left
    raises : ValueError for unequal shapes
    """
    sigmas, errors, labels = _equally_long(sigma=sigma, error=error, groups=groups)
    masks = [labels == label for label in np.unique(labels)]
    values = [spearman(sigmas[mask], errors[mask]) for mask in masks if np.count_nonzero(mask) >= MINIMUM_GROUP]
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def auroc(score_in: ArrayLike, score_out: ArrayLike) -> float:
    """Return the area under the ROC curve.

    It is the probability that an out-of-distribution score exceeds an in-distribution one, ties counting half.

        AUC = [R_out - m (m + 1) / 2] / (n m)

    | symbol | meaning |
    | --- | --- |
    | R_out | sum of the ranks of the m out-of-distribution scores among all n + m |

    score_in : (n,) scores that should be low; score_out : (m,) scores that should be high
    returns : 0 to 1; 0.5 for no separation
    raises : ValueError for an empty set or NaN
    source : Mann, Whitney 1947, doi:10.1214/aoms/1177730491
    """
    inside, outside = (np.asarray(score, dtype=np.float64).ravel() for score in (score_in, score_out))
    if not inside.size or not outside.size:
        raise ValueError(f"expected scores in both sets, got {inside.size} inside and {outside.size} outside")
    both = np.concatenate([inside, outside])
    if np.isnan(both).any():
        raise ValueError(f"expected scores without NaN, got {np.count_nonzero(np.isnan(both))} of {both.size}")
    ranks = rankdata(both)[inside.size :].sum()
    return float((ranks - outside.size * (outside.size + 1) / 2) / (inside.size * outside.size))
