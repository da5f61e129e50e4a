"""Scores of predictions and their variances: proper scores, averages and calibration errors.

Everywhere ``error`` is reference minus mean, in some unit u, and ``variance`` is the predicted variance of the same
numbers in u^2, of the same shape; a force enters per component.  Every function averages over all elements and returns
one float.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]

#: levels of :func:`ce_central`
LEVELS = np.arange(1, 100) / 100


def _flat(values: ArrayLike, name: str) -> Array:
    """Return the values as one non-empty float64 axis."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    if not flat.size:
        raise ValueError(f"expected at least one {name}, got none")
    return flat


def _pair(error: ArrayLike, variance: ArrayLike) -> tuple[Array, Array]:
    """Return errors and standard deviations, flat; raises ValueError for unequal shapes and variances not positive and finite."""
    if np.shape(error) != np.shape(variance):
        raise ValueError(f"error has shape {np.shape(error)}, variance {np.shape(variance)}; expected the same")
    errors, variances = _flat(error, "error"), _flat(variance, "variance")
    bad = np.count_nonzero(~((variances > 0) & np.isfinite(variances)))
    if bad:
        raise ValueError(
            f"expected positive finite variances, but {bad} of {variances.size} are not; leave them out and count them"
        )
    return errors, np.sqrt(variances)


def mae(error: ArrayLike) -> float:
    """Return the mean absolute error, in u."""
    return float(np.abs(_flat(error, "error")).mean())


def rmse(error: ArrayLike) -> float:
    """Return the root mean squared error, in u."""
    return float(np.sqrt((_flat(error, "error") ** 2).mean()))


def nll(error: ArrayLike, variance: ArrayLike) -> float:
    """Return the Gaussian negative log-likelihood, mean per coordinate (not per 3-vector), with its constant.

        NLL = mean [ ln(2 pi s^2) + e^2 / s^2 ] / 2

    error, variance : any one shape, u and u^2; the value depends on u through ln s
    raises : ValueError for unequal shapes or variances that are not positive and finite
    """
    errors, sigma = _pair(error, variance)
    return float((0.5 * (errors / sigma) ** 2 + np.log(sigma)).mean() + 0.5 * np.log(2 * np.pi))


def crps_gaussian(error: ArrayLike, variance: ArrayLike) -> float:
    """Return the continuous ranked probability score of Gaussian predictions, mean per coordinate, in u.

        CRPS = mean s [ z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi) ],   z = e / s

    error, variance : any one shape, u and u^2
    raises : ValueError as :func:`nll`
    source : Gneiting, Raftery 2007, section 4.2, doi:10.1198/016214506000001437
    """
    errors, sigma = _pair(error, variance)
    z = errors / sigma
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return float((sigma * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))).mean())


def crps_samples(samples: ArrayLike, reference: ArrayLike) -> float:
    """Return the fair CRPS of K samples, unbiased for the CRPS of their distribution, in u.

        CRPS = mean [ sum_k |x_k - y| / K - sum_(j<k) |x_j - x_k| / (K (K - 1)) ]

    | symbol | variable | meaning |
    | --- | --- | --- |
    | x_k | ``samples`` | (K, ...) with K >= 2 |
    | y | ``reference`` | (...) |

    raises : ValueError for K < 2 or shapes that do not match
    source : Ferro 2014, doi:10.1002/qj.2270
    """
    values, target = np.asarray(samples, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if values.shape[1:] != target.shape or not values.ndim:
        raise ValueError(f"samples have shape {values.shape}; expected (K, *{target.shape}) as the reference has")
    count = len(values)
    if count < 2:
        raise ValueError(f"a fair CRPS takes K >= 2 samples, got K={count}")
    weights = 2.0 * np.arange(count) - count + 1  # sum_(j<k) |x_j - x_k| = sum_k (2k - K + 1) x_(k), k from 0
    centred = np.sort(values - target, axis=0)
    pairs = np.tensordot(weights, centred, axes=1)
    return float(_flat(np.abs(centred).mean(axis=0) - pairs / (count * (count - 1)), "reference").mean())


def zms(error: ArrayLike, variance: ArrayLike) -> float:
    """Return the mean squared z-score, mean e^2 / s^2: 1 where variances are right on average.

    error, variance : any one shape, u and u^2
    raises : ValueError as :func:`nll`
    source : Pernot 2024, arXiv:2402.10043
    """
    errors, sigma = _pair(error, variance)
    return float(((errors / sigma) ** 2).mean())


def ence(error: ArrayLike, variance: ArrayLike, bins: int = 10) -> float:
    """Return the expected normalized calibration error over bins of equal count, ordered by variance.

        ENCE = mean_b |RMSE_b - RMV_b| / RMV_b

    | symbol | meaning |
    | --- | --- |
    | RMSE_b | root mean squared error of bin b |
    | RMV_b | root mean variance of bin b |

    A perfect model does not reach 0: compare with :func:`ence_null`.

    error, variance : any one shape, u and u^2
    raises : ValueError as :func:`nll`, and for fewer points than bins
    source : Levi et al. 2022, doi:10.3390/s22155540
    """
    errors, sigma = _pair(error, variance)
    if not 1 <= bins <= errors.size:
        raise ValueError(f"expected between 1 and n={errors.size} bins, got bins={bins}")
    rms_error, rms_sigma = binned(errors, sigma, bins)
    return float((np.abs(rms_error - rms_sigma) / rms_sigma).mean())


def binned(error: ArrayLike, sigma: ArrayLike, bins: int) -> tuple[Array, Array]:
    """Return root mean squares of errors and of sigmas in bins of equal count, ordered by sigma.

    Points of equal sigma all count with the mean square of their errors, so that their order does not matter where a bin ends
    among them.

    error, sigma : (n,) in one unit; bins : at most n
    returns : (bins,) each, in that unit
    """
    errors, sigmas = np.asarray(error, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    _, code, counts = np.unique(sigmas, return_inverse=True, return_counts=True)
    squares = (np.bincount(code, errors**2) / counts)[code]
    groups = [group for group in np.array_split(np.argsort(sigmas), bins) if group.size]
    rms, predicted = (np.sqrt([values[group].mean() for group in groups]) for values in (squares, sigmas**2))
    return rms, predicted


def ence_null(n: int, bins: int = 10) -> float:
    """Return the mean of :func:`ence` for a perfect Gaussian model: sqrt(B / (pi n)) = 0.564 sqrt(B / n).

    n : number of independent points; bins : B
    raises : ValueError unless 1 <= bins <= n
    source : the mean |N(0, 1/(2m))| with m = n/B points a bin; Pernot 2023, arXiv:2305.11905
    """
    if not 1 <= bins <= n:
        raise ValueError(f"expected between 1 and n={n} bins, got bins={bins}")
    return float(np.sqrt(bins / (np.pi * n)))


def _pit(error: ArrayLike, variance: ArrayLike) -> Array:
    """Return sorted Gaussian CDF values Phi(e / s) of the references; uniform for a perfect model."""
    errors, sigma = _pair(error, variance)
    return np.sort(ndtr(errors / sigma))


def miscalibration_area(error: ArrayLike, variance: ArrayLike) -> float:
    """Return the area between the curve of the Gaussian CDF values and the diagonal, integrated exactly; 0 to 1/2.

        A = int_0^1 |F(p) - p| dp,   F(p) = fraction of Phi(e / s) <= p

    error, variance : any one shape, u and u^2
    raises : ValueError as :func:`nll`
    source : Tran et al. 2020, doi:10.1088/2632-2153/ab7e1a, with the one-sided curve
    """
    edges = np.concatenate([[0.0], _pit(error, variance), [1.0]])
    level = np.linspace(0.0, 1.0, edges.size - 1)

    def primitive(p: Array) -> Array:
        return 0.5 * (p - level) * np.abs(p - level)

    return float((primitive(edges[1:]) - primitive(edges[:-1])).sum())


def ece_cdf(error: ArrayLike, variance: ArrayLike) -> float:
    """Return the one-sided calibration error of the BLIP paper: mean of |F(p) - p| over 100 levels p from 0 to 1.

        F(p) = fraction of Phi(e / s) <= p,   p in linspace(0, 1, 100)

    Absolute differences on a one-sided curve are not comparable with central intervals or squared differences.

    error, variance : any one shape, u and u^2
    raises : ValueError as :func:`nll`
    source : Coscia, de Haan, Welling 2025, arXiv:2508.14022; the quantity of :func:`miscalibration_area` on a grid
    """
    values, levels = _pit(error, variance), np.linspace(0.0, 1.0, 100)
    observed = np.searchsorted(values, levels, side="right") / values.size
    return float(np.abs(observed - levels).mean())


def ce_central(error: ArrayLike, variance: ArrayLike) -> float:
    """Return the calibration error of the RACE paper: mean of (p - p_hat)^2 over the central intervals of 99 levels; 0 to 1/3.

        p_hat(p) = fraction of |e| / s <= Phi^-1((1 + p) / 2),   p = 0.01, 0.02 ... 0.99

    Total overconfidence gives 0.3317, as do infinite variances: :func:`zms` gives the direction.  The paper's curves
    have 21 levels including 0 and 1, which give other numbers than its tables.

    error, variance : any one shape, u and u^2; a nonzero error with a variance of zero counts as outside
    raises : ValueError for unequal shapes or variances that are negative or not finite
    source : Willow et al. 2025, arXiv:2510.03046, section F (the formula is not printed; this one gives its values)
    """
    if np.shape(error) != np.shape(variance):
        raise ValueError(f"error has shape {np.shape(error)}, variance {np.shape(variance)}; expected the same")
    errors, variances = np.abs(_flat(error, "error")), _flat(variance, "variance")
    if not ((variances >= 0) & np.isfinite(variances)).all():
        raise ValueError("expected finite variances that are not negative")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(errors == 0, 0.0, errors / np.sqrt(variances))
    return float(((LEVELS - coverage_of(ratio, LEVELS)) ** 2).mean())


def coverage_of(ratio: ArrayLike, levels: ArrayLike) -> Array:
    """Return the fraction of |e| / s inside the central Gaussian interval of each level; (n,) and (L,) -> (L,)."""
    sorted_ratio = np.sort(np.asarray(ratio, dtype=np.float64))
    limits = ndtri((1.0 + np.asarray(levels, dtype=np.float64)) / 2.0)
    return np.searchsorted(sorted_ratio, limits, side="right") / sorted_ratio.size


def composite_score(
    energy_rmse: float, forces_rmse: float, auroc: float, energy_ce: float = 0.0, forces_ce: float = 0.0
) -> float:
    """Return the RACE paper's score for the choice of a model; smaller is better.

        23.06 (RMSE_E + RMSE_F) / 4 + (CE'_E + CE'_F) / 8 + (1 - AUROC) / 4

    Errors dominate it, and calibration hardly counts.  It uses OOD data, so it is for comparison with the paper only.

    energy_rmse, forces_rmse : eV, eV/A; energy_ce, forces_ce : scaled to 0 ... 1 over the candidates
    source : Willow et al. 2025, arXiv:2510.03046, section F.1
    """
    return 0.25 * 23.06 * (energy_rmse + forces_rmse) + 0.125 * (energy_ce + forces_ce) + 0.25 * (1.0 - auroc)
