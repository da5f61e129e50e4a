"""Mahalanobis distance of a point from a cloud of points.

    d(x) = √( (x - μ)ᵀ Σ⁻¹ (x - μ) / F ),    Σ = D ((1 - ρ) R + ρ I) D

| symbol | variable | meaning |
|---|---|---|
| μ, D | ``centre``, in ``root`` | means and standard deviations of the cloud |
| R | | correlations of the cloud |
| ρ | | shrinkage for few points: oracle approximating, Chen, Wiesel, Eldar, Hero 2010, doi:10.1109/TSP.2010.2053029 |
| Σ⁻¹ | ``root @ root.T`` | |

Over points of the cloud the mean of d² is about one for any F.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: relative to the largest standard deviation; a feature that varies less counts as constant
CONSTANT = 1e-9


@dataclass(frozen=True)
class Ellipsoid:
    """Mean and covariance of a cloud of points.

    centre : (F,)
    root : (F, F) lower triangle
    """

    centre: np.ndarray
    root: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return the distances (N,) of points (N, F)."""
        return np.linalg.norm((points - self.centre) @ self.root, axis=1) / np.sqrt(len(self.centre))


def fit_ellipsoid(points: np.ndarray) -> Ellipsoid:
    """Return the ellipsoid of points (n, F), n ≥ 2."""
    n, size = points.shape
    centre, deviation = points.mean(axis=0), points.std(axis=0)
    deviation = np.maximum(deviation, CONSTANT * max(float(deviation.max()), CONSTANT))
    scaled = (points - centre) / deviation
    correlation = scaled.T @ scaled / n
    trace, squares = float(np.trace(correlation)), float((correlation**2).sum())
    above, below = (1 - 2 / size) * squares + trace**2, (n + 1 - 2 / size) * (squares - trace**2 / size)
    share = min(1.0, above / below) if below > 0 else 1.0
    shrunk = (1 - share) * correlation + share * trace / size * np.eye(size)
    return Ellipsoid(centre, np.linalg.cholesky(np.linalg.inv(shrunk)) / deviation[:, None])
