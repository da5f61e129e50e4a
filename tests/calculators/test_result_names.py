"""Names and conventions of other programs: units, divisors and signs with known answers."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from blipcalc import BayesianCalculator, committee
from blipcalc.calculators.result_names import ipi_extras, mace_results
from blipcalc.errors import ConfigurationError
from blipcalc.model_file.model import Model
from blipcalc.models.build import build_model
from blipcalc.posteriors.blip import BlipPosterior, bayesianize


@pytest.fixture(params=["molecule", "crystal"])
def atoms(request):
    torch.manual_seed(0)
    network = bayesianize(build_model("painn", {"features": 8, "interactions": 1}, [1, 8, 13]))
    atoms = molecule("H2O") if request.param == "molecule" else bulk("Al", cubic=True)
    atoms.rattle(0.05, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms.calc = BayesianCalculator(Model(network, BlipPosterior(network.slot_shapes())), n_draws=4)
    return atoms


def test_mace_has_variances_with_divisor_k(atoms):
    found = mace_results(atoms)
    ours = {key: atoms.calc.get_property(key, atoms) for key in ("energy_var", "forces_var")}
    assert found["forces_comm"].shape == (4, len(atoms), 3)
    assert found["energy_var"] == pytest.approx(ours["energy_var"] * 3 / 4)
    assert np.allclose(found["forces_var"], ours["forces_var"] * 3 / 4)
    assert np.allclose(found["energy_comm"].mean(), atoms.get_potential_energy())
    assert ("stress_comm" in found) == atoms.pbc.all()


def test_ipi_has_atomic_units_and_the_sign_of_its_virial(atoms):
    """The virial is -dE/dstrain: what a swelling of the cell by 1 + x takes from the energy of each draw."""
    extras = json.loads(ipi_extras(atoms))
    samples = atoms.calc.get_samples(atoms)
    assert np.allclose(np.array(extras["committee_pot"]) * 27.211386, samples.energy, rtol=1e-6)
    assert np.allclose(np.array(extras["committee_force"]) * 27.211386 / 0.529177, samples.forces, rtol=1e-5)
    virial = np.array(extras["committee_virial"])
    if not atoms.pbc.all():
        assert not virial.any()
        return
    energies, step = [], 1e-4
    for sign in (1, -1):
        swollen = atoms.copy()
        swollen.set_cell(atoms.cell * (1 + sign * step), scale_atoms=True)
        energies.append(atoms.calc.get_samples(swollen).energy)
    slope = (energies[0] - energies[1]) / (2 * step) / units.Hartree
    assert np.allclose(-np.trace(virial, axis1=1, axis2=2), slope, rtol=1e-5, atol=1e-8)


def test_a_committee_of_calculators_speaks_them_too_and_others_are_refused():
    atoms = bulk("Cu", cubic=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms.calc = BayesianCalculator(committee([EMT(), EMT()]))
    assert np.allclose(mace_results(atoms)["forces_var"], 0.0)
    with pytest.raises(ConfigurationError, match="no draws"):
        ipi_extras(Atoms("Cu", calculator=EMT()))
