"""Derive moduli of a polycrystal and stability from an elastic tensor.

    K_V = (C11 + C22 + C33 + 2 (C12 + C13 + C23)) / 9,          1/K_R = S11 + S22 + S33 + 2 (S12 + S13 + S23)
    G_V = (C11 + C22 + C33 - C12 - C13 - C23 + 3 (C44 + C55 + C66)) / 15
    15/G_R = 4 (S11 + S22 + S33 - S12 - S13 - S23) + 3 (S44 + S55 + S66)
    E = 9 K G / (3 K + G),   ν = (3 K - 2 G) / (6 K + 2 G)

| symbol | variable | meaning |
|---|---|---|
| C, S | ``tensor`` | elastic tensor, GPa, and its inverse |
| V, R | | Voigt: uniform strain; Reuss: uniform stress; Hill: their mean |

A crystal is stable if the lowest eigenvalue of C is positive (Born; Mouhat, Coudert 2014).

Source: Hill, Proc. Phys. Soc. A 65, 349 (1952).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from blipcalc.properties.property_tables import table_of
from blipcalc.stats.estimate import Estimate

#: elements of the tensor below this fraction of the largest are not printed
SMALL = 1e-3


@dataclass(frozen=True)
class ElasticConstants:
    """Elastic tensor with its error bars, and moduli derived from it, draw by draw.

    tensor : (6, 6) GPa, Voigt order xx, yy, zz, yz, xz, xy, engineering shears, along the Cartesian axes of the structure
    cell : (3, 3) Å, rows, at which the tensor was computed
    clamped : whether ions only followed the strain
    shared_lattice : whether all draws had the same cell
    """

    tensor: Estimate
    cell: Estimate
    clamped: bool
    shared_lattice: bool

    @property
    def bulk_modulus_voigt(self) -> Estimate:
        """Return the bulk modulus K_V, GPa."""
        return self.tensor.map(voigt_bulk)

    @property
    def bulk_modulus_reuss(self) -> Estimate:
        """Return the bulk modulus K_R, GPa: the response to hydrostatic pressure, equal to B0 of an equation of state."""
        return self.tensor.map(reuss_bulk)

    @property
    def bulk_modulus(self) -> Estimate:
        """Return Hill's mean of the bulk modulus, GPa."""
        return self._hill(lambda k, g: k)

    @property
    def shear_modulus_voigt(self) -> Estimate:
        """Return the shear modulus G_V, GPa."""
        return self.tensor.map(voigt_shear)

    @property
    def shear_modulus_reuss(self) -> Estimate:
        """Return the shear modulus G_R, GPa."""
        return self.tensor.map(reuss_shear)

    @property
    def shear_modulus(self) -> Estimate:
        """Return Hill's mean of the shear modulus, GPa."""
        return self._hill(lambda k, g: g)

    @property
    def youngs_modulus(self) -> Estimate:
        """Return Young's modulus E from Hill's means, GPa."""
        return self._hill(lambda k, g: 9 * k * g / (3 * k + g))

    @property
    def poisson_ratio(self) -> Estimate:
        """Return Poisson's ratio ν from Hill's means."""
        return self._hill(lambda k, g: (3 * k - 2 * g) / (6 * k + 2 * g), "")

    @property
    def lowest(self) -> Estimate:
        """Return the lowest eigenvalue of the tensor, GPa."""
        return self.tensor.map(lambda c: np.linalg.eigvalsh(c)[0])

    @property
    def stable(self) -> float:
        """Return the probability that the crystal is stable: the fraction of stable draws.

        The spread of the draws is scaled by the calibration factor; NaN with an element without calibration.
        """
        lowest = self.lowest
        if np.isnan(lowest.calibration_factor):
            return float("nan")
        mean = lowest.draws.mean()
        return float(np.mean(mean + lowest.calibration_factor * (lowest.draws - mean) > 0))

    def quantities(self) -> dict[str, Estimate]:
        """Return {name: estimate} of scalar quantities: nonzero elements of the tensor, and moduli."""
        largest = np.abs(self.tensor.draws).max(axis=0)
        rows = {
            f"C{i + 1}{j + 1}": self.tensor[i, j]
            for i in range(6)
            for j in range(i, 6)
            if largest[i, j] > SMALL * largest.max()
        }
        return rows | {
            "bulk modulus (Voigt)": self.bulk_modulus_voigt,
            "bulk modulus (Reuss)": self.bulk_modulus_reuss,
            "bulk modulus (Hill)": self.bulk_modulus,
            "shear modulus (Voigt)": self.shear_modulus_voigt,
            "shear modulus (Reuss)": self.shear_modulus_reuss,
            "shear modulus (Hill)": self.shear_modulus,
            "Young's modulus": self.youngs_modulus,
            "Poisson's ratio": self.poisson_ratio,
            "lowest eigenvalue": self.lowest,
        }

    def table(self) -> str:
        """Return the quantities and the probability of stability as text."""
        ions = "clamped" if self.clamped else "relaxed"
        lattice = "a shared lattice" if self.shared_lattice else "the lattice of every draw"
        text = table_of(f"elastic constants, ions {ions}, at {lattice}", self.quantities())
        return f"{text}\nprobability that it is stable: {self.stable:.3g}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return {
            "tensor": self.tensor.to_dict(),
            "cell": self.cell.to_dict(),
            "clamped": self.clamped,
            "shared_lattice": self.shared_lattice,
            "stable": self.stable,
            **{name: estimate.to_dict() for name, estimate in self.quantities().items()},
        }

    def _hill(self, function: Callable[[float, float], float], unit: str = "GPa") -> Estimate:
        def of(c: np.ndarray) -> float:
            return function((voigt_bulk(c) + reuss_bulk(c)) / 2, (voigt_shear(c) + reuss_shear(c)) / 2)

        return self.tensor.map(of, unit)


def voigt_bulk(c: np.ndarray) -> float:
    """Return K_V of a tensor (6, 6)."""
    return c[:3, :3].sum() / 9


def reuss_bulk(c: np.ndarray) -> float:
    """Return K_R of a tensor (6, 6)."""
    return 1 / np.linalg.inv(c)[:3, :3].sum()


def voigt_shear(c: np.ndarray) -> float:
    """Return G_V of a tensor (6, 6)."""
    normal = np.trace(c[:3, :3])
    return (normal - (c[:3, :3].sum() - normal) / 2 + 3 * np.trace(c[3:, 3:])) / 15


def reuss_shear(c: np.ndarray) -> float:
    """Return G_R of a tensor (6, 6)."""
    s = np.linalg.inv(c)
    normal = np.trace(s[:3, :3])
    return 15 / (4 * (normal - (s[:3, :3].sum() - normal) / 2) + 3 * np.trace(s[3:, 3:]))
