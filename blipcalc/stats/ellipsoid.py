"""How far a point lies from a cloud of points, in units of the cloud: Mahalanobis' distance.

    d(x) = √( (x - μ)ᵀ Σ⁻¹ (x - μ) / F ),    Σ = D ((1 - ρ) R + ρ I) D

| symbol | variable | meaning |
|---|---|---|
| μ, D | ``centre``, in ``root`` | means and standard deviations of the cloud |
| R | | its correlations |
| ρ | | shrinkage, so that few points serve: oracle approximating, Chen, Wiesel, Eldar, Hero 2010, doi:10.1109/TSP.2010.2053029 |
| Σ⁻¹ | ``root @ root.T`` | |

Points of the cloud have a mean of d² of about one, whatever F.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: of the largest standard deviation: a feature that varies less does not vary
CONSTANT = 1e-9


@dataclass(frozen=True)
class Ellipsoid:
    """A cloud of points.

    centre : (F,)
    root : (F, F) lower triangle
    """

    centre: np.ndarray
    root: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(N,) of points (N, F)."""
        return np.linalg.norm((points - self.centre) @ self.root, axis=1) / np.sqrt(len(self.centre))


def fit_ellipsoid(points: np.ndarray) -> Ellipsoid:
    """The ellipsoid of points (n, F), n ≥ 2."""
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
