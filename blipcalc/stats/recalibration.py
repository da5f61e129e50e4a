"""Recalibration of predicted distributions to known errors: one factor, a monotone map of the CDF, conformal intervals.

Fit them on one half and evaluate on the other: on their own data all of them look perfect.  Conformal quantiles are
in :mod:`blipcalc.stats.conformal`; the factor on variances is :func:`blipcalc.stats.scores.zms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from scipy.special import ndtr

from blipcalc.stats.scores import LEVELS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class IsotonicRecalibration:
    """A monotone map R of the predicted CDF that makes R(F(y)) uniform on the data of the fit.

        R = isotonic regression of  P_hat(p) = fraction of F_t(y_t) <= p  on  p = F_t(y_t)

    Source: Kuleshov, Fenner, Ermon 2018 (arXiv 1807.00263), algorithm 1.  It can shift an interval as well as stretch it.  Where
    all references lie outside all predicted distributions it can correct nothing.

    points, values : the map, linear in between, from (0, 0) to (1, 1)
    """

    points: Array
    values: Array

    @classmethod
    def fit(cls, error: ArrayLike, variance: ArrayLike) -> Self:
        """Fit the map to errors (reference minus mean) and Gaussian variances of any one shape."""
        cdf = np.sort(_cdf(error, variance))
        observed = np.searchsorted(cdf, cdf, side="right") / cdf.size
        fitted = isotonic_regression(observed).x
        points, first = np.unique(cdf, return_index=True)
        last = np.append(first[1:], cdf.size) - 1
        inside = (points > 0.0) & (points < 1.0)  # a map of (0, 1) cannot move a reference at 0 or 1
        ends = [[0.0], [1.0]]
        return cls(*(np.concatenate([ends[0], x[inside], ends[1]]) for x in (points, fitted[last])))

    def __call__(self, cdf: ArrayLike) -> Array:
        """Map predicted CDF values to recalibrated ones."""
        return np.interp(np.asarray(cdf, dtype=np.float64), self.points, self.values)

    def coverage(self, error: ArrayLike, variance: ArrayLike, levels: ArrayLike = LEVELS) -> Array:
        """Return the fraction of references inside the recalibrated central interval of each level."""
        mapped = np.sort(np.abs(2.0 * self(_cdf(error, variance)) - 1.0))
        return np.searchsorted(mapped, np.asarray(levels, dtype=np.float64), side="right") / mapped.size

    def ce(self, error: ArrayLike, variance: ArrayLike) -> float:
        """Return :func:`blipcalc.stats.scores.ce_central` after recalibration."""
        return float(((LEVELS - self.coverage(error, variance)) ** 2).mean())


def _cdf(error: ArrayLike, variance: ArrayLike) -> Array:
    """Return the Gaussian CDF values of the references, flat."""
    return ndtr(np.ravel(error) / np.sqrt(np.ravel(variance)))
