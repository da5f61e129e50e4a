"""Properties with error bars, one file each: vibrations, phonons, barriers, elastic constants, equations of state, …"""

from blipcalc.properties.barrier import barrier
from blipcalc.properties.elastic import elastic_constants
from blipcalc.properties.energy_differences import adsorption_energy, energy_difference, vacancy_energy
from blipcalc.properties.equation_of_state import equation_of_state
from blipcalc.properties.phonons import phonons
from blipcalc.properties.scans import dihedral_scan, dimer_scan, distance_scan
from blipcalc.properties.vibrations import vibrations

__all__ = [
    "adsorption_energy",
    "barrier",
    "dihedral_scan",
    "dimer_scan",
    "distance_scan",
    "elastic_constants",
    "energy_difference",
    "equation_of_state",
    "phonons",
    "vacancy_energy",
    "vibrations",
]
