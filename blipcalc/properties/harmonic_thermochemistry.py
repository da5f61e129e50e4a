"""Compute harmonic thermochemistry from mode energies with error bars.

    x = ħω / kT,   E₀ = Σ ħω/2,   F = E₀ + kT Σ ln(1 - e⁻ˣ),   U = E₀ + Σ ħω / (eˣ - 1),   S = (U - F) / T,
    C = k Σ x² eˣ / (eˣ - 1)²

| symbol | variable | meaning |
|---|---|---|
| ħω | ``energies`` | eV |
| k, T | ``temperature_K`` | Boltzmann's constant, temperature |
| Σ | ``weight`` | over modes, times the weight of each: 1, or one over the number of q-points |

Evaluated draw by draw (McQuarrie 2000, chapter 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase.units import invcm, kB

from blipcalc.errors import ConfigurationError, ImaginaryModesError
from blipcalc.settings import number
from blipcalc.stats.estimate import Estimate

#: upper bound on x: e⁻⁷⁰⁰ does not underflow
COLD = 700.0
#: eV, kT used for 0 K
COLDEST = 1e-9


@dataclass(frozen=True)
class Oscillators:
    """Harmonic thermochemistry of independent modes.

    energies : (M,) eV, all positive
    weight : of each mode in a sum
    """

    energies: Estimate
    weight: float = 1.0

    def zero_point_energy(self) -> Estimate:
        """Return the zero-point energy E₀, eV."""
        return self._of(lambda e: 0.5 * e.sum())

    def free_energy(self, temperature_K: float) -> Estimate:
        """Return the Helmholtz free energy F, eV; raises ConfigurationError for a temperature that is not ≥ 0 K."""
        kt = _kt(temperature_K)
        return self._of(lambda e: (0.5 * e + kt * np.log1p(-np.exp(-_x(e, kt)))).sum())

    def internal_energy(self, temperature_K: float) -> Estimate:
        """Return the internal energy U, eV."""
        kt = _kt(temperature_K)
        return self._of(lambda e: (0.5 * e + e / np.expm1(_x(e, kt))).sum())

    def entropy(self, temperature_K: float) -> Estimate:
        """Return the entropy S, eV/K."""
        kt = _kt(temperature_K)
        return self._of(lambda e: kB * (_x(e, kt) / np.expm1(_x(e, kt)) - np.log1p(-np.exp(-_x(e, kt)))).sum(), "eV/K")

    def heat_capacity(self, temperature_K: float) -> Estimate:
        """Return the heat capacity C at constant volume, eV/K."""
        kt = _kt(temperature_K)
        return self._of(lambda e: kB * ((0.5 * _x(e, kt) / np.sinh(0.5 * _x(e, kt))) ** 2).sum(), "eV/K")

    def _of(self, function: Callable[[np.ndarray], float], unit: str = "eV") -> Estimate:
        return self.energies.map(lambda e: self.weight * function(e), unit)


def oscillators(frequencies: Estimate, floor_cm: float | None = None, weight: float = 1.0) -> Oscillators:
    """Return the thermochemistry of modes in cm⁻¹; modes imaginary on the driving potential are left out on all draws.

    floor_cm : lower frequencies are raised to it, in cm⁻¹ (Ribeiro and others 2011 take 100)

    raises : ImaginaryModesError for a mode that is imaginary only on a draw, unless a floor is given
    """
    real = frequencies[frequencies.value > 0]
    if floor_cm is not None:
        floor = number("floor_cm", floor_cm, above=0)
        real = real.map(lambda values: np.maximum(values, floor))
    lowest = real.draws.min(initial=np.inf)
    if lowest <= 0:
        k, j = np.argwhere(real.draws == lowest)[0]
        raise ImaginaryModesError(
            f"expected real frequencies on all draws, got {lowest:.1f} cm⁻¹ on draw {k}, where the driving surface has "
            f"{real.value[j]:.1f}; give floor_cm, such as 50, or leave that mode to a model of internal rotation"
        )
    return Oscillators(real.map(lambda values: values * invcm, "eV"), weight)


def _kt(temperature_K: float) -> float:
    found = number("temperature_K", temperature_K)
    if found < 0:
        raise ConfigurationError(f"temperature_K={found}; expected a temperature ≥ 0 K")
    return max(kB * found, COLDEST)


def _x(energies: np.ndarray, kt: float) -> np.ndarray:
    return np.minimum(energies / kt, COLD)
