"""Hold the normal modes of a structure with error bars, and compute energies, entropies and tables from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ase.units
import numpy as np
from ase import Atoms
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import VibrationsData

from blipcalc.errors import ConfigurationError
from blipcalc.properties.harmonic_thermochemistry import Oscillators, oscillators
from blipcalc.stats.estimate import Estimate, with_error


@dataclass(frozen=True)
class Vibrations:
    """Normal modes with error bars: M modes of n atoms, m free coordinates of 3n, K draws.

    atoms : the structure of the driving potential, without calculator
    frequencies : (M,) cm⁻¹, rising for the driving potential; negative stands for imaginary
    modes : (M, n, 3) unit vectors in coordinates times √mass, of the driving potential
    overlaps : (K, M) overlap of the mode of draw k with the matched degenerate group of the driving potential, 0 to 1
    groups : (M,) equal numbers for degenerate modes, which are matched by frequency
    potential : () eV, energy at the structures
    positions : (K, n, 3) Å, of the draws
    hessian, hessians : (m, m) and (K, m, m) eV/Å²
    free : (3n,) True for these coordinates
    at : ``own`` or ``shared``
    """

    atoms: Atoms
    frequencies: Estimate
    modes: np.ndarray
    overlaps: np.ndarray
    groups: np.ndarray
    potential: Estimate
    positions: np.ndarray = field(repr=False)
    hessian: np.ndarray = field(repr=False)
    hessians: np.ndarray = field(repr=False)
    free: np.ndarray = field(repr=False)
    at: str = "own"

    @property
    def energies(self) -> Estimate:
        """Return ħω (M,) in eV; ``energies.map(f)`` with a function f of ASE's thermochemistry adds an error bar."""
        return self.frequencies.map(lambda values: values * ase.units.invcm, "eV")

    @property
    def displacements(self) -> np.ndarray:
        """Return the largest displacement (K,) Å of an atom from the driving potential's structure to that of the draw."""
        return np.linalg.norm(self.positions - self.atoms.positions, axis=2).max(axis=1)

    def oscillators(self, floor_cm: float | None = None) -> Oscillators:
        """Return the harmonic thermochemistry of the modes, without those imaginary on the driving potential.

        floor_cm : lower frequencies are raised to it, in cm⁻¹ (Ribeiro and others 2011 take 100)

        raises : ImaginaryModesError for a mode that is imaginary only on a draw, unless a floor is given
        """
        return oscillators(self.frequencies, floor_cm)

    def zero_point_energy(self, *, floor_cm: float | None = None) -> Estimate:
        """Return the zero-point energy Σ ħω/2, eV."""
        return self.oscillators(floor_cm).zero_point_energy()

    def free_energy(self, temperature_K: float, *, floor_cm: float | None = None) -> Estimate:
        """Return the Helmholtz free energy of the vibrations, eV, with zero-point energy, without potential energy."""
        return self.oscillators(floor_cm).free_energy(temperature_K)

    def entropy(self, temperature_K: float, *, floor_cm: float | None = None) -> Estimate:
        """Return the entropy of the vibrations, eV/K."""
        return self.oscillators(floor_cm).entropy(temperature_K)

    def heat_capacity(self, temperature_K: float, *, floor_cm: float | None = None) -> Estimate:
        """Return the heat capacity of the vibrations at constant volume, eV/K."""
        return self.oscillators(floor_cm).heat_capacity(temperature_K)

    def gibbs_energy(
        self,
        temperature_K: float,
        *,
        pressure_Pa: float = 101325.0,
        symmetry_number: int = 1,
        spin: float = 0.0,
        floor_cm: float | None = None,
    ) -> Estimate:
        """Return the Gibbs energy of an ideal gas, eV, without potential energy.

        Uses ASE's ``IdealGasThermo`` on the structure of each draw.

        raises : ConfigurationError for a crystal or fixed atoms; ImaginaryModesError as :meth:`oscillators`
        """
        if self.atoms.pbc.any() or not self.free.all():
            raise ConfigurationError("an ideal gas is of molecules: expected no periodic direction and no atom held")
        energies = self.oscillators(floor_cm).energies
        linear = len(self.modes) == 3 * len(self.atoms) - 5

        def gibbs(levels: np.ndarray, positions: np.ndarray) -> float:
            molecule = self.atoms.copy()
            molecule.positions = positions
            thermo = IdealGasThermo(
                list(levels), "linear" if linear else "nonlinear", atoms=molecule, symmetrynumber=symmetry_number, spin=spin,
                vib_selection="all",
            )  # fmt: skip
            return thermo.get_gibbs_energy(temperature_K, pressure_Pa, verbose=False)

        draws = [gibbs(levels, at) for levels, at in zip(energies.draws, self.positions, strict=True)]
        return Estimate(
            np.array(gibbs(energies.value, self.atoms.positions)),
            np.array(draws),
            "eV",
            energies.calibration_factor,
            energies.calibrated,
        )

    def data(self, draw: int | None = None) -> VibrationsData:
        """Return ASE's ``VibrationsData`` of the driving potential, or of one draw, for animations, spectra and files.

        ASE does not project out rigid motions.

        raises : ConfigurationError for atoms with only some coordinates fixed
        """
        free = self.free.reshape(-1, 3)
        if (free.any(axis=1) != free.all(axis=1)).any():
            raise ConfigurationError("ASE's VibrationsData knows atoms that are free or fixed, not single coordinates")
        atoms = self.atoms.copy()
        if draw is not None:
            atoms.positions = self.positions[draw]
        return VibrationsData.from_2d(
            atoms,
            self.hessian if draw is None else self.hessians[draw],
            indices=np.flatnonzero(free.all(axis=1)).tolist(),
        )

    def table(self) -> str:
        """Return text with a line for each mode."""
        f, mev = self.frequencies, 1e3 * ase.units.invcm
        rows = [f"{'mode':>4}  {'cm⁻¹':>18}  {'bias':>8}  {'meV':>8}  {'overlap':>7}  group"]
        for j, (value, std, bias) in enumerate(zip(f.value, f.std, f.bias, strict=True)):
            rows.append(
                f"{j:>4}  {with_error(float(value), float(std)):>18}  {bias:8.2f}  {value * mev:8.2f}  "
                f"{self.overlaps[:, j].min():7.3f}  {self.groups[j]}"
            )
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return {
            "frequencies_cm": self.frequencies.to_dict(),
            "modes": self.modes.tolist(),
            "overlaps": self.overlaps.tolist(),
            "groups": self.groups.tolist(),
            "potential": self.potential.to_dict(),
            "positions": self.positions.tolist(),
            "at": self.at,
        }
