"""Conformal quantiles of calibration scores, for atoms and for frames, and sampling limits of an observed coverage.

A score is an error divided by its scale, such as ||force error|| / atom_std.  With n scores that are exchangeable with a
new one, the new one stays below the conformal quantile with probability at least ``level`` = 1 - alpha.  Atoms of one
frame are not exchangeable with atoms of another, frames are: hence the quantiles over frames.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import betabinom

from blipcalc.stats.bootstrap import frame_layout

Array = NDArray[np.float64]

ROUNDING = 1e-9  # (n + 1) * level may be a whole number that floating point misses


def _check_level(level: float, name: str = "level") -> None:
    if not 0 < level < 1:
        raise ValueError(f"expected a {name} between 0 and 1, such as 0.95, got {level}")


def _checked(scores: ArrayLike) -> Array:
    """Return scores as one axis; raises ValueError for NaN, which has no rank."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected scores of shape (n,), got {values.shape}")
    if np.isnan(values).any():
        raise ValueError(
            f"{np.count_nonzero(np.isnan(values))} of {values.size} scores are NaN; leave them out and count them"
        )
    return values


def _rank(count: float, level: float) -> int:
    """Return the whole number ceil(count * level), at least 1."""
    return max(1, math.ceil(count * level - ROUNDING))


def conformal_quantile(scores: ArrayLike, level: float) -> float:
    """Return the ceil((n + 1) level)-th smallest of n scores.

    scores : (n,)
    level : 1 - alpha
    returns : in the unit of the scores; infinite for fewer than ``minimum_count(level)`` scores
    raises : ValueError for a NaN score or a level outside (0, 1)
    source : Vovk, Gammerman, Shafer 2005; Lei et al. 2018, doi:10.1080/01621459.2017.1307116
    """
    _check_level(level)
    values = _checked(scores)
    rank = _rank(values.size + 1, level)
    return float(np.partition(values, rank - 1)[rank - 1]) if rank <= values.size else math.inf


def minimum_count(level: float) -> int:
    """Return the least number of scores with a finite conformal quantile: n >= level / (1 - level); 19 at 0.95, 99 at 0.99."""
    _check_level(level)
    return max(1, math.ceil(level / (1 - level) - ROUNDING))


def confident_count(level: float, confidence: float = 0.95) -> int:
    """Return the least number of scores whose largest covers ``level`` of new ones with the given confidence.

        n >= ln(1 - confidence) / ln(level)

    It is 59 at 0.95 and 299 at 0.99 with confidence 0.95, the number that a class (an element) needs for its own quantile.

    source : Wilks 1941, doi:10.1214/aoms/1177731788
    """
    _check_level(level)
    _check_level(confidence, "confidence")
    return max(1, math.ceil(math.log(1 - confidence) / math.log(level) - ROUNDING))


def coverage_law(n_calibration: int, level: float) -> tuple[int, int]:
    """Return parameters (a, b) of the Beta law of the true coverage, given one calibration set of independent scores.

        coverage ~ Beta(n + 1 - l, l),   l = floor((n + 1)(1 - level))

    raises : ValueError for fewer than ``minimum_count(level)`` points, where everything is covered
    source : Vovk 2012, proposition 2a; Angelopoulos, Bates 2023, section 3.2, doi:10.1561/2200000101
    """
    needed = minimum_count(level)
    if n_calibration < needed:
        raise ValueError(f"level {level} takes at least {needed} calibration points, got {n_calibration}")
    rank = _rank(n_calibration + 1, level)
    return rank, n_calibration + 1 - rank


def coverage_limits(n_calibration: int, n_test: int, level: float, confidence: float = 0.99) -> tuple[float, float]:
    """Return beta-binomial limits of the coverage of n_test points exchangeable with the calibration points.

        covered ~ BetaBinomial(n_test; n + 1 - l, l)

    A binomial law around ``level`` would ignore that the quantile itself is random, and reject good models.

    n_calibration, n_test : numbers of independent points: frames, not atoms
    returns : (low, high), fractions; a coverage outside has a probability below 1 - confidence
    raises : ValueError as :func:`coverage_law`, and for n_test < 1
    source : :func:`coverage_law`; Angelopoulos, Bates 2023
    """
    _check_level(confidence, "confidence")
    if n_test < 1:
        raise ValueError(f"expected at least one test point, got {n_test}")
    law = betabinom(n_test, *coverage_law(n_calibration, level))
    return float(law.ppf((1 - confidence) / 2) / n_test), float(law.ppf((1 + confidence) / 2) / n_test)


def one_per_frame(scores: ArrayLike, frames: ArrayLike, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the row number of one atom from each frame, drawn uniformly; frames in the order of their sorted labels.

    scores : (n,), refused where NaN; frames : (n,)
    returns : (number of frames,)
    """
    layout = frame_layout(frames, _checked(scores).size)
    return layout.order[layout.starts + rng.integers(layout.counts)]


def subsampled_quantile(
    scores: ArrayLike, frames: ArrayLike, level: float, rng: np.random.Generator, repeats: int = 100
) -> float:
    """Return the conformal quantile for one atom of a new frame, from repeated draws of one atom per frame.

    One draw gives F exchangeable scores and an exact but noisy quantile.  The repeats are combined by averaging their
    p-values, not their quantiles:

        q = the ceil(R (F + 1) level)-th smallest of all R F drawn scores

    For one repeat this is :func:`conformal_quantile`; for many it tends to :func:`frame_weighted_quantile`, with a
    coverage of at least ``level``, where a median of the quantiles would guarantee only 2 level - 1.

    scores, frames : (n,)
    repeats : R
    returns : in the unit of the scores; infinite for fewer than ``minimum_count(level)`` frames
    raises : ValueError for a NaN score, a level outside (0, 1), repeats < 1
    source : Dunn, Wasserman, Ramdas 2023 (repeated subsampling), arXiv:1809.07441
    """
    _check_level(level)
    if repeats < 1:
        raise ValueError(f"expected at least one repeat, got {repeats}")
    values = _checked(scores)
    layout = frame_layout(frames, values.size)
    total = len(layout.counts)
    rank = _rank(repeats * (total + 1), level)
    if rank > repeats * total:
        return math.inf
    rows = layout.starts + rng.integers(layout.counts, size=(repeats, total))
    return float(np.partition(values[layout.order[rows]], rank - 1, axis=None)[rank - 1])


def frame_weighted_quantile(scores: ArrayLike, frames: ArrayLike, level: float) -> float:
    """Return the limit of :func:`subsampled_quantile` for many repeats: every frame weighs 1, shared by its atoms; no randomness.

        q = min { s : sum_(f, i : s_fi <= s) 1 / n_f >= (F + 1) level }

    | symbol | meaning |
    | --- | --- |
    | s_fi | score of atom i of frame f |
    | n_f, F | atoms of frame f, number of frames |

    scores, frames : (n,)
    returns : in the unit of the scores; infinite for fewer than ``minimum_count(level)`` frames
    raises : ValueError for a NaN score or a level outside (0, 1)
    source : Lee, Barber, Willett 2023, arXiv:2306.06342 (hierarchical conformal prediction)
    """
    _check_level(level)
    values = _checked(scores)
    layout = frame_layout(frames, values.size)
    weights = np.empty(values.size)
    weights[layout.order] = np.repeat(1.0 / layout.counts, layout.counts)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) >= (len(layout.counts) + 1) * level - ROUNDING * values.size
    return float(values[order[np.argmax(reached)]]) if reached.any() else math.inf


def frame_maximum(scores: ArrayLike, frames: ArrayLike) -> Array:
    """Return the largest score of every frame, frames in the order of their sorted labels; NaN where a frame has one.

    scores, frames : (n,)
    returns : (number of frames,), exchangeable scores for a quantile that covers a whole frame
    """
    values = np.asarray(scores, dtype=np.float64)
    layout = frame_layout(frames, values.size)
    return np.maximum.reduceat(values[layout.order], layout.starts)
