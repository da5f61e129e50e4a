"""Recalibration constants in closed form."""

from __future__ import annotations

from numpy.typing import ArrayLike

from blipcalc.stats.scores import zms


def variance_scale(error: ArrayLike, variance: ArrayLike) -> float:
    """Return the factor on a variance after which the mean squared z-score is 1.

        scale = mean(e^2 / s^2),   mean(e^2 / (scale s^2)) = 1

    | symbol | variable | meaning |
    | --- | --- | --- |
    | e | ``error`` | reference minus mean, any shape, u |
    | s^2 | ``variance`` | predicted variance per component, the same shape, u^2 |

    It is also the maximum-likelihood factor of Gaussian errors.

    returns : dimensionless; its root multiplies a standard deviation
    raises : ValueError for unequal shapes, variances that are not positive and finite, and errors that are all zero or
        not finite
    """
    scale = zms(error, variance)
    if not 0 < scale < float("inf"):
        raise ValueError(f"expected finite errors that are not all zero, got a mean squared z-score of {scale}")
    return scale
