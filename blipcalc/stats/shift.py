"""Conformal quantiles under covariate shift, with calibration points weighted by the density at the place of use.

    w(x) = p_there(x) / p_here(x),      q = inf { s : Σ_i w_i 1[s_i ≤ s] ≥ level · (Σ_i w_i + w_new) }

| symbol | variable |
|---|---|
| s_i | ``scores`` of the calibration points |
| w_i | ``weights``, here from a logistic regression that separates the two samples |
| w_new | a high quantile of the weights of points there, so that q holds for most of them |
| ESS | (Σ w)² / Σ w², effective number of weighted points |

Weights restore the coverage unless a few points carry all weight: below :data:`LEAST` effective points no quantile is given.

Source: Tibshirani, Barber, Candès, Ramdas 2019, arXiv 1904.06019; ESS: Kish 1965.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blipcalc.stats.conformal import ROUNDING

#: least number of effective points for a quantile
LEAST = 300
#: ridge on the standardised coefficients of the regression, relative to a point; most steps, and tolerance to stop
RIDGE, STEPS, CLOSE = 1e-3, 100, 1e-10
#: quantile of the weights of points there that is used as w_new
NEW = 0.95


@dataclass(frozen=True)
class Shifted:
    """Conformal quantile of scores at another place.

    quantile : in the unit of the scores; None for too few effective points
    plain : the quantile without weights; None for too few points
    effective : effective number of points; n : number of points
    """

    quantile: float | None
    plain: float | None
    effective: float
    n: int


def effective_size(weights: np.ndarray) -> float:
    """Return (Σ w)² / Σ w²; 0 where all weights are 0."""
    total = float(weights.sum())
    return total**2 / float((weights**2).sum()) if total > 0 else 0.0


def weighted_quantile(scores: np.ndarray, weights: np.ndarray, level: float, new: float) -> float:
    """Return the weighted conformal quantile of scores (n,) with weights (n,), for a new point of weight ``new``.

    It is infinite where the points do not reach the level.
    """
    order = np.argsort(scores)
    mass = np.cumsum(weights[order])
    k = int(np.searchsorted(mass, level * (mass[-1] + new) * (1 - ROUNDING)))
    return float(scores[order][k]) if k < len(scores) else float("inf")


def density_ratio(here: np.ndarray, there: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return p_there / p_here (m,) at points (m, p), from samples (n, p) and (k, p).

    Logistic regression, linear in the coordinates, is exact for Gaussians of one covariance.
    """
    both = np.concatenate([here, there])
    centre, scale = both.mean(axis=0), both.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)

    def design(x: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(x)), (x - centre) / scale])

    x, y = design(both), np.repeat([0.0, 1.0], [len(here), len(there)])
    ridge = RIDGE * len(both) * np.diag([0.0, *np.ones(here.shape[1])]) / max(1, here.shape[1])
    beta = np.zeros(x.shape[1])
    for _ in range(STEPS):  # Newton's method
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (y - p) - ridge @ beta
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, gradient)
        beta = beta + step
        if np.abs(step).max() < CLOSE:
            break
    return np.exp(np.clip(design(at) @ beta, -30, 30)) * len(here) / len(there)


def shifted_quantile(
    scores: np.ndarray, here: np.ndarray, there: np.ndarray, level: float, *, least: float = LEAST
) -> Shifted:
    """Return the conformal quantile of scores (n,) at coordinates (n, p), for points at coordinates (k, p).

    returns : with ``quantile`` None below ``least`` effective points
    """
    weights, ones = density_ratio(here, there, here), np.ones(len(scores))
    effective = effective_size(weights)
    plain = _finite(weighted_quantile(scores, ones, level, 1.0))
    if effective < least:
        return Shifted(None, plain, effective, len(scores))
    new = float(np.quantile(density_ratio(here, there, there), NEW))
    found = weighted_quantile(scores, weights, level, new)
    return Shifted(_finite(found), plain, effective, len(scores))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
