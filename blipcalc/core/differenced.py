"""Second derivatives by central differences of a gradient, where automatic differentiation is impossible.

H v = |v| [g(q + h v/|v|) - g(q - h v/|v|)] / 2h, where |v| is the largest component.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Å, or strain: h, half the distance of a difference
STEP = 1e-3


class Differenced:
    """Hessian as :class:`~blipcalc.core.curvature.Curvature`, with an error of the order of :data:`STEP` squared.

    Parameters
    ----------
    gradient : (size,) q -> (…, size) gradient at q, of one surface or of several
    size : number of coordinates
    """

    def __init__(self, gradient: Callable[[np.ndarray], np.ndarray], size: int) -> None:
        self._gradient, self.size = gradient, size

    def matrix(self) -> np.ndarray:
        """Return the symmetric Hessian (size, size) of one surface."""
        found = self.product(np.eye(self.size))
        return 0.5 * (found + found.T)

    def product(self, directions: np.ndarray) -> np.ndarray:
        """Return the Hessian times directions, (B, size) -> (B, …, size)."""
        return np.stack([self._along(v) for v in directions])

    def _along(self, v: np.ndarray) -> np.ndarray:
        length = np.abs(v).max() or 1.0
        forward, backward = (self._gradient(sign * STEP / length * v) for sign in (1, -1))
        return (forward - backward) * length / (2 * STEP)
