"""The normal modes of a structure with error bars, and what follows from them: energies, entropies, tables."""

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
    """Normal modes with error bars; M modes of n atoms, m = 3n coordinates that are free, K draws.

    atoms : the structure of the driving surface, without calculator
    frequencies : (M,) cm⁻¹, rising on the driving surface; negative stands for imaginary
    modes : (M, n, 3) unit vectors in coordinates times √mass, of the driving surface
    overlaps : (K, M) how much of the mode of draw k lies where the driving one, with those of its frequency, lies; 0 to 1
    groups : (M,) equal numbers for modes of one frequency, which are told apart by frequency alone
    potential : () eV, energy at the structures
    positions : (K, n, 3) Å, of the draws
    hessian, hessians : (m, m) and (K, m, m) eV/Å²
    free : (3n,) which coordinates these are
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
        """(M,) ħω in eV; ``energies.map(f)`` with a function f of ASE's thermochemistry gives its result with an error bar."""
        return self.frequencies.map(lambda values: values * ase.units.invcm, "eV")

    @property
    def displacements(self) -> np.ndarray:
        """(K,) Å, the longest way of an atom from the driving structure to that of the draw."""
        return np.linalg.norm(self.positions - self.atoms.positions, axis=2).max(axis=1)

    def oscillators(self, floor_cm: float | None = None) -> Oscillators:
        """The modes as oscillators, for energies and entropies; modes imaginary on the driving surface are no part of them.

        floor_cm : lower frequencies are raised to it, in cm⁻¹ (Ribeiro and others 2011 take 100)

        raises : ImaginaryModesError for a mode that is imaginary on a draw alone, unless a floor is given
        """
        return oscillators(self.frequencies, floor_cm)

    def zero_point_energy(self, *, floor_cm: float | None = None) -> Estimate:
        """Σ ħω/2, eV."""
        return self.oscillators(floor_cm).zero_point_energy()

    def free_energy(self, temperature_K: float, *, floor_cm: float | None = None) -> Estimate:
        """Helmholtz free energy of the vibrations, eV, zero-point energy included, potential energy not."""
        return self.oscillators(floor_cm).free_energy(temperature_K)

    def entropy(self, temperature_K: float, *, floor_cm: float | None = None) -> Estimate:
        """Of the vibrations, eV/K."""
        return self.oscillators(floor_cm).entropy(temperature_K)

    def heat_capacity(self, temperature_K: float, *, floor_cm: float | None = None) -> Estimate:
        """Of the vibrations at constant volume, eV/K."""
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
        """Of an ideal gas, eV, potential energy not included: ASE's ``IdealGasThermo`` on the structure of each draw.

        raises : ConfigurationError for a crystal or with atoms held; ImaginaryModesError as :meth:`oscillators`
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
        """ASE's view of the driving surface, or of one draw: animations, spectra, files; for whole atoms that are free.

        ASE projects nothing out.
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
        """A line for each mode."""
        f, mev = self.frequencies, 1e3 * ase.units.invcm
        rows = [f"{'mode':>4}  {'cm⁻¹':>18}  {'bias':>8}  {'meV':>8}  {'overlap':>7}  group"]
        for j, (value, std, bias) in enumerate(zip(f.value, f.std, f.bias, strict=True)):
            rows.append(
                f"{j:>4}  {with_error(float(value), float(std)):>18}  {bias:8.2f}  {value * mev:8.2f}  "
                f"{self.overlaps[:, j].min():7.3f}  {self.groups[j]}"
            )
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            "frequencies_cm": self.frequencies.to_dict(),
            "modes": self.modes.tolist(),
            "overlaps": self.overlaps.tolist(),
            "groups": self.groups.tolist(),
            "potential": self.potential.to_dict(),
            "positions": self.positions.tolist(),
            "at": self.at,
        }
