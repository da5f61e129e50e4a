"""The radius of gyration of a molecule."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from blipcalc.averages.named_observables import Arguments
from blipcalc.averages.observables import Observable


def radius_of_gyration(atoms: Atoms) -> float:
    """√(Σ m |r - r_cm|² / Σ m), Å."""
    masses = atoms.get_masses()
    away = atoms.positions - atoms.get_center_of_mass()
    return float(np.sqrt((masses * (away**2).sum(axis=1)).sum() / masses.sum()))


def named_gyration(arguments: Arguments) -> Observable:
    """``gyration``, Å: radius of gyration of all atoms."""
    arguments.none()
    return Observable("gyration", "Å", radius_of_gyration)
