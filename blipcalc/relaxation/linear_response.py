"""Compute the minimum of each draw to first order, by the implicit function theorem at the driving potential's minimum.

    δq_k = -H̄⁻¹ g_k,   E*_k = E_k - ½ g_kᵀ H̄⁻¹ g_k

| symbol | variable | meaning |
|---|---|---|
| g_k | ``gradients`` | of draw k at q̄, the minimum of the driving potential |
| H̄ | ``hessian`` | of the driving potential: Hessians of single draws are noisier, and a nearly singular one diverges |
| δq_k | ``shifts`` | Å, and strains |

Exact for harmonic draws with the same Hessian.  It is used if no coordinate is soft and the spread is small; its error is
measured by the forces of the draws at their predicted minima.

Source: the implicit function theorem; for potentials Maliyov, Grigorev, Swinburne 2024, arXiv 2407.02414.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from blipcalc.calculators.draw_surfaces import Hessian
from blipcalc.errors import NotAMinimumError
from blipcalc.relaxation.conjugate_gradients import conjugate_gradients
from blipcalc.relaxation.coordinates import FreeMotion

#: eV/Å², below which a coordinate is soft
SOFT = 1e-3
#: least eigenvalue of a minimum, as a fraction of the largest
FLAT = 1e-6
#: relative residual of the conjugate gradients, and most iterations
RESIDUAL, ITERATIONS = 1e-6, 1000


@dataclass(frozen=True)
class Response:
    """Linear response of K draws.

    shifts : (K, m) δq, along free motions only
    relaxation : (K,) eV, ½ gᵀ H̄⁻¹ g, energy that each draw gains in its per-draw minimum
    softest : eV/Å², the smallest eigenvalue of H̄ among free motions, or an upper bound on it without a matrix
    """

    shifts: np.ndarray
    relaxation: np.ndarray
    softest: float


class Inverse:
    """Inverse H̄⁻¹ on the free motions of a structure, or of |H̄| with a lower bound on stiffness.

    Parameters
    ----------
    hessian : (m, m) of the driving potential
    free : motions as a :class:`~blipcalc.relaxation.coordinates.Basis`: ``dense``, or of few atoms
    """

    def __init__(self, hessian: np.ndarray, free: FreeMotion) -> None:
        self._free = free
        self.values, self._vectors = np.linalg.eigh(free.down(free.down(hessian).T))

    def __call__(self, gradients: np.ndarray) -> np.ndarray:
        """Return H̄⁻¹ g (…, m) of gradients (…, m)."""
        return self._free.up(self._solved(self._free.down(gradients), self.values))

    def of_minimum(self) -> Self:
        """Return the inverse itself; raises NotAMinimumError for an eigenvalue that is not positive."""
        if self._free.size and self.values[0] <= FLAT * np.abs(self.values).max():
            raise NotAMinimumError(
                f"expected a minimum of the surface that drives, its lowest curvature is {self.values[0]:.3g} (highest "
                f"{self.values[-1]:.3g}); displace the structure along the soft mode and relax it again, or do without its "
                "curvature (second_order=False) where that is a setting"
            )
        return self

    def stiff(self, slopes: np.ndarray, floor: float) -> np.ndarray:
        """Return slopes (f,) along free motions divided by |H̄|, with eigenvalues of at least ``floor``."""
        return self._solved(slopes, np.maximum(np.abs(self.values), floor))

    def _solved(self, slopes: np.ndarray, values: np.ndarray) -> np.ndarray:
        return (slopes @ self._vectors / values) @ self._vectors.T


def respond(inverse: Inverse, gradients: np.ndarray) -> Response:
    """Return the linear response from the inverse; meaningless if ``softest`` is not positive."""
    steps = inverse(gradients)
    return Response(-steps, 0.5 * np.einsum("km,km->k", gradients, steps), float(inverse.values.min()))


def respond_by_products(hessian: Hessian, free: FreeMotion, gradients: np.ndarray) -> Response:
    """Return the linear response of all draws, using only products of the Hessian.

    softest : the smallest curvature found along a search direction, at most 0 if not all rows were solved
    """
    found = conjugate_gradients(
        lambda rows, directions: free.down(hessian.product(free.up(directions))),
        free.down(gradients),
        lambda square: RESIDUAL**2 * square,
        ITERATIONS,
    )
    softest = float(found.softest.min(initial=np.inf))
    steps = free.up(found.x)
    return Response(
        -steps, 0.5 * np.einsum("km,km->k", gradients, steps), softest if found.solved.all() else min(softest, 0.0)
    )


class UnderPressure:
    """Hessian of the enthalpy: adds that of p V, V = V₀ det(1 + ε), to the strains of another Hessian.

    pressure, volume : eV/Å³, Å³
    """

    def __init__(self, hessian: Hessian, pressure: float, volume: float) -> None:
        self._hessian, self.size = hessian, hessian.size
        self._block = np.zeros((6, 6))
        self._block[:3, :3] = 1.0 - np.eye(3)
        self._block[3:, 3:] = -0.5 * np.eye(3)  # det has -ε_yz² and so on, and ε_yz is half of the coordinate
        self._block *= pressure * volume

    def matrix(self) -> np.ndarray:
        """Return the matrix (size, size)."""
        found = self._hessian.matrix()
        found[-6:, -6:] += self._block
        return found

    def product(self, directions: np.ndarray) -> np.ndarray:
        """Return the product (B, size) with directions (B, size)."""
        found = self._hessian.product(directions)
        found[:, -6:] += directions[:, -6:] @ self._block
        return found
