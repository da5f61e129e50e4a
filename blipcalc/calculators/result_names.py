"""Uncertainties under the names and conventions of other programs, computed from the draws.

* :func:`mace_results`, for scripts written for MACE's committee: ``energy_comm``, ``forces_comm``, ``stress_comm`` and ``*_var``
  in eV and Å; divisor K
* :func:`ipi_extras`, for i-PI's committee force field: ``committee_pot``, ``committee_force``, ``committee_virial`` in atomic
  units, as JSON

Both are posterior values: neither program knows a calibration or mean-variance heads.

Sources: MACE, ``mace.calculators.mace`` (variances over members, not unbiased); i-PI, ``ffcommittee`` with ``parse_json``
(energies, forces (n, 3) and virials (3, 3) of every member, in Hartree and Bohr).
"""

from __future__ import annotations

import json

import numpy as np
from ase import Atoms, units
from ase.stress import voigt_6_to_full_3x3_stress

from blipcalc.calculators.bayesian import Sampled
from blipcalc.core.demanded import demanded
from blipcalc.core.prediction import SampleArrays
from blipcalc.errors import ConfigurationError


def mace_results(atoms: Atoms) -> dict[str, np.ndarray]:
    """Return what MACE's calculator has in ``results`` for a committee of K members.

    Returns
    -------
    ``energy_comm`` (K,) eV, ``forces_comm`` (K, n, 3) eV/Å, ``stress_comm`` (K, 6) eV/Å³ for periodic structures, and
    ``energy_var`` (), ``forces_var`` (n, 3), ``stress_var`` (6,): variances with divisor K

    Raises
    ------
    ConfigurationError : a calculator without draws
    """
    samples = _samples(atoms)
    found: dict[str, np.ndarray] = {}
    for name in ("energy", "forces", "stress"):
        values = getattr(samples, name)
        if values is not None:
            found |= {f"{name}_comm": values, f"{name}_var": values.var(axis=0)}
    return found


def ipi_extras(atoms: Atoms) -> str:
    """Return the extras string that an i-PI driver sends beside energy, forces and virial.

    Returns
    -------
    JSON with ``committee_pot`` (K,) Hartree, ``committee_force`` (K, n, 3) Hartree/Bohr and ``committee_virial`` (K, 3, 3)
    Hartree, which is -V σ, and zero for structures without a stress

    Raises
    ------
    ConfigurationError : a calculator without draws
    """
    samples = _samples(atoms)
    virial = np.zeros((len(samples.energy), 3, 3))
    if samples.stress is not None:
        virial = -atoms.get_volume() * np.array([voigt_6_to_full_3x3_stress(stress) for stress in samples.stress])
    extras: dict[str, np.ndarray] = {
        "committee_pot": samples.energy / units.Hartree,
        "committee_force": demanded(samples.forces, "forces") * units.Bohr / units.Hartree,
        "committee_virial": virial / units.Hartree,
    }
    return json.dumps({name: values.tolist() for name, values in extras.items()}, allow_nan=False)


def _samples(atoms: Atoms) -> SampleArrays:
    if not isinstance(atoms.calc, Sampled):
        raise ConfigurationError(
            f"{type(atoms.calc).__name__} has no draws; expected a BayesianCalculator or a sum with one"
        )
    return atoms.calc.get_samples(atoms)
