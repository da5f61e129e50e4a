"""Mean and spread of K draws; every variance over samples in the package is computed here.

The divisor is K-1, in float64.  Deviations are taken from the first draw, so that draws equal to the last digit have a
variance of exactly zero and a large common offset (a total energy of -1e6 eV) costs no digits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: smaller values are rounding of cancelling sums; eV/Å of forces, eV/Å³ of a stress
CANCELLED = 1e-8


def is_blank(spreads: ArrayLike, values: ArrayLike) -> bool:
    """Return whether all spreads are exactly zero although some value is not: equal samples carry no information on errors.

    A spread of zero is correct for values that vanish, such as forces by symmetry.

    spreads : standard deviations or variances, any shape; values : the values, any shape
    """
    return not np.any(spreads) and bool(np.abs(values).max(initial=0.0) > CANCELLED)


def _centred(samples: ArrayLike, axis: int) -> tuple[Array, Array]:
    """Return the mean of K samples, and their deviations from it with K in front.

    Raises ValueError for fewer than two samples.
    """
    values = np.moveaxis(np.asarray(samples, dtype=np.float64), axis, 0)
    if len(values) < 2:
        raise ValueError(
            f"a spread takes K >= 2 samples, got K={len(values)}; ask for more draws or for the mean alone"
        )
    shifted = values - values[0]
    offset = shifted.mean(axis=0)
    return values[0] + offset, shifted - offset


def spread(samples: ArrayLike, axis: int = 0) -> tuple[Array, Array]:
    """Return mean and variance of K samples along one axis.

        var = [sum_k d_k^2 - (sum_k d_k)^2 / K] / (K - 1),   d_k = x_k - mean

    | symbol | variable | meaning |
    | --- | --- | --- |
    | x_k | ``samples`` | K samples along ``axis`` |
    | d_k | ``deviations`` | their sum in the second term is zero but for rounding, which it corrects |

    samples : any shape with K >= 2 along ``axis``, in some unit u
    returns : mean in u, variance in u^2, float64, the shape of ``samples`` without ``axis``
    raises : ValueError for K < 2
    source : Chan, Golub, LeVeque 1983 (corrected two-pass), doi:10.1080/00031305.1983.10483115
    """
    mean, deviations = _centred(samples, axis)
    count = len(deviations)
    squares = (deviations**2).sum(axis=0) - deviations.sum(axis=0) ** 2 / count
    return mean, np.maximum(squares, 0.0) / (count - 1)


def covariance(samples: ArrayLike) -> Array:
    """Return the covariance of K samples of n vectors, divisor K-1.

        C_i = sum_k d_ki d_ki^T / (K - 1),   d_ki = x_ki - mean_i

    samples : (K, n, 3) with K >= 2, in some unit u
    returns : (n, 3, 3) in u^2, symmetric; its diagonal is the variance of :func:`spread`
    raises : ValueError for K < 2 or another number of axes
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 3:
        raise ValueError(f"expected samples of shape (K, n, 3), got {values.shape}")
    _, deviations = _centred(values, 0)
    count = len(deviations)
    rest = deviations.sum(axis=0)
    products = np.einsum("kni,knj->nij", deviations, deviations) - rest[:, :, None] * rest[:, None, :] / count
    return (products + products.swapaxes(1, 2)) / (2 * (count - 1))


def cross_covariance(scalars: ArrayLike, samples: ArrayLike) -> Array:
    """Return the covariance of K numbers with K samples of any shape, divisor K-1.

        C = sum_k e_k d_k / (K - 1),   e_k = scalar_k - mean,   d_k = x_k - mean

    scalars : (K,) with K >= 2, in some unit u; samples : (K, ...) in some unit v
    returns : the shape of one sample, in u v
    raises : ValueError for K < 2 or another K
    """
    _, e = _centred(scalars, 0)
    _, d = _centred(samples, 0)
    if e.ndim != 1 or len(e) != len(d):
        raise ValueError(f"expected (K,) numbers and (K, ...) samples, got {e.shape} and {d.shape}")
    return (np.tensordot(e, d, axes=1) - e.sum() * d.sum(axis=0) / len(e)) / (len(e) - 1)


def atom_variance(covariances: ArrayLike) -> Array:
    """Return the rotation-invariant variance of one component, a third of the trace.

    covariances : (n, 3, 3) in u^2
    returns : (n,) in u^2
    raises : ValueError for another shape
    """
    values = np.asarray(covariances, dtype=np.float64)
    if values.ndim != 3 or values.shape[1:] != (3, 3):
        raise ValueError(f"expected covariances of shape (n, 3, 3), got {values.shape}")
    return np.trace(values, axis1=1, axis2=2) / 3.0
