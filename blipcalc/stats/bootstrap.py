"""Sampling errors of numbers over atoms by resampling whole frames, since atoms of one frame are not independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blipcalc.stats.spread import spread

Array = NDArray[np.float64]


class FrameLayout(NamedTuple):
    """Rows sorted by frame.

    order : (n,) row numbers, frame after frame
    starts : (F,) position in ``order`` of the first row of each of F frames
    counts : (F,) number of rows of each frame
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    counts: NDArray[np.intp]


def frame_layout(frames: ArrayLike, n: int) -> FrameLayout:
    """Return the rows of each frame, with frames in the order of their sorted labels.

    frames : (n,) label of the frame of each row; n : expected number of rows
    raises : ValueError where there are no rows or not as many labels as rows
    """
    labels = np.asarray(frames)
    if labels.shape != (n,) or n == 0:
        raise ValueError(f"expected a frame label for each of n={n} rows (n >= 1), got labels of shape {labels.shape}")
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return FrameLayout(np.argsort(codes, kind="stable"), starts, counts)


def _at_least_two(layout: FrameLayout, n_resamples: int) -> None:
    """Raise ValueError for fewer than two frames or two resamples."""
    if len(layout.counts) < 2 or n_resamples < 2:
        raise ValueError(f"expected >= 2 frames and >= 2 resamples, got {len(layout.counts)} and {n_resamples}")


def _rows_of(layout: FrameLayout, picked: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the rows of the picked frames, repeated for repeated frames."""
    counts = layout.counts[picked]
    shift = layout.starts[picked] - (np.cumsum(counts) - counts)
    return layout.order[np.repeat(shift, counts) + np.arange(counts.sum())]


def frame_bootstrap(
    values: ArrayLike,
    frames: ArrayLike,
    statistic: Callable[[NDArray[Any]], float],
    rng: np.random.Generator,
    n_resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic by resampling whole frames with replacement.

    values : (n, ...) one row per atom; columns may hold several inputs of the statistic (an error and its variance)
    frames : (n,) label of the frame of each row
    statistic : rows (m, ...) -> number
    returns : (low, high), in the unit of the statistic
    raises : ValueError for fewer than two frames, or labels that do not match the rows
    source : Davison, Hinkley 1997, chapters 3 and 5, doi:10.1017/CBO9780511802843
    """
    rows = np.asarray(values)
    layout = frame_layout(frames, len(rows))
    _at_least_two(layout, n_resamples)
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    total = len(layout.counts)
    found = [statistic(rows[_rows_of(layout, rng.integers(total, size=total))]) for _ in range(n_resamples)]
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def effective_sample_size(
    values: ArrayLike, frames: ArrayLike, rng: np.random.Generator, n_resamples: int = 1000
) -> float:
    """Return the number of independent points whose mean would have the same sampling error.

        n_eff = n v_iid / v_frames

    | symbol | meaning |
    | --- | --- |
    | v_iid | variance of the values / n: that of the mean if all rows were independent |
    | v_frames | variance of the mean over bootstrap resamples of F frames, times F / (F - 1) |

    For a coverage, pass the indicator of being covered, not the score.

    values : (n,); frames : (n,)
    returns : points; above n where rows of a frame differ more than rows of different frames, NaN for constant values
    raises : ValueError as :func:`frame_bootstrap`
    source : the design effect, Kish 1965; frames resampled as in :func:`frame_bootstrap`
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 1:
        raise ValueError(f"expected values of shape (n,), got {rows.shape}")
    layout = frame_layout(frames, len(rows))
    _at_least_two(layout, n_resamples)
    mean, variance = spread(rows)
    if variance == 0:
        return float("nan")
    sums, total = np.add.reduceat((rows - mean)[layout.order], layout.starts), len(layout.counts)
    picks = (rng.integers(total, size=total) for _ in range(n_resamples))
    _, of_frames = spread([sums[pick].sum() / layout.counts[pick].sum() for pick in picks])
    return float(variance / (of_frames * total / (total - 1))) if of_frames > 0 else float("inf")
