"""BALD, the information of a label on the right draw, for Gaussian predictions in closed form.

Of M draws with means mu_m and covariances S_m

    BALD = 1/2 [ln det S_tot - mean_m ln det S_m],   S_tot = mean_m (S_m + mu_m mu_m^T) - mu mu^T

the mutual information between label and draw, with the mixture replaced by the Gaussian of the same moments: an upper bound,
zero for draws that agree.  A covariance too large by a factor makes the contribution of the draws too small, so variances must
be those of the errors (see :mod:`blipcalc.training.objectives` on weights in a likelihood).

Source: Houlsby et al. 2011 (arXiv 1112.5745); Willow et al. 2025 (arXiv 2510.03046), eq. 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def mixture_moments(means: ArrayLike, covariances: ArrayLike) -> tuple[Array, Array]:
    """Return mean and covariance of equally weighted Gaussians, divisor M.

    means : (M, ..., D), in u; covariances : (M, ..., D, D), in u^2
    returns : (..., D) and (..., D, D)
    raises : ValueError for shapes that do not fit
    """
    mu, s = np.asarray(means, dtype=np.float64), np.asarray(covariances, dtype=np.float64)
    if s.shape != (*mu.shape, mu.shape[-1]):
        raise ValueError(f"means have shape {mu.shape}, covariances {s.shape}; expected {(*mu.shape, mu.shape[-1])}")
    mean = mu.mean(axis=0)
    away = mu - mean
    between = np.einsum("m...i,m...j->...ij", away, away) / len(mu)
    return mean, s.mean(axis=0) + between


def bald(means: ArrayLike, variances: ArrayLike) -> Array:
    """Return the BALD of scalars, such as energies, in nats.

    means : (M, ...), in u; variances : (M, ...), in u^2, positive
    returns : (...), not negative
    raises : ValueError for unequal shapes or variances that are not positive
    """
    mu, v = np.asarray(means, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    return bald_vector(mu[..., None], v[..., None, None])


def bald_vector(means: ArrayLike, covariances: ArrayLike) -> Array:
    """Return the BALD of vectors, such as the force on an atom, in nats; rotation-invariant.

    means : (M, ..., D), in u; covariances : (M, ..., D, D), in u^2, positive definite
    returns : (...), not negative
    raises : ValueError for shapes that do not fit or covariances that are not positive definite
    """
    _, total = mixture_moments(means, covariances)
    signs, own = np.linalg.slogdet(np.asarray(covariances, dtype=np.float64))
    sign, together = np.linalg.slogdet(total)
    if not ((signs > 0).all() and (sign > 0).all()):
        raise ValueError("expected covariances that are positive definite; BALD needs the noise of every draw")
    return np.maximum(0.5 * (together - own.mean(axis=0)), 0.0)
