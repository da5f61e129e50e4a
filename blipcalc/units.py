"""Units: inside the package energies are eV, lengths Å, times fs; conversion happens once, where data enter."""

from __future__ import annotations

from typing import Literal

import ase.units

EnergyUnit = Literal["eV", "meV", "kcal/mol", "kJ/mol", "Hartree", "Rydberg"]
LengthUnit = Literal["Angstrom", "Bohr", "nm"]

ENERGY: dict[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": ase.units.kcal / ase.units.mol,
    "kJ/mol": ase.units.kJ / ase.units.mol,
    "Hartree": ase.units.Hartree,
    "Rydberg": ase.units.Rydberg,
}
LENGTH: dict[str, float] = {"Angstrom": 1.0, "Bohr": ase.units.Bohr, "nm": 10.0}
