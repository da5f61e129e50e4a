"""The calculator's contract: keys, units, laziness, refusals, and its life inside ASE's algorithms."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_properties
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.md import thermalize_momenta
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE
from scaled_emt import ScaledEMT

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import VARIANCES, BayesianCalculator
from blipcalc.core.prediction import Calibration
from blipcalc.core.predictor_contract import Need
from blipcalc.errors import (
    CoincidentAtomsError,
    ConfigurationError,
    DrawsError,
    EmptyStructureError,
    ModelFileError,
    NonFiniteError,
    SingularCellError,
    StructureError,
    UncalibratedWarning,
    UnknownElementError,
)
from blipcalc.model_file.model import Model
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.posteriors.ensemble import EnsemblePosterior, stack_members
from blipcalc.posteriors.point import PointPosterior
from blipcalc.predictor import BayesianPredictor

CONTRACT = {
    "energy": (),
    "free_energy": (),
    "energies": ("n",),
    "forces": ("n", 3),
    "stress": (6,),
    "energy_var": (),
    "energy_std": (),
    "forces_var": ("n", 3),
    "forces_std": ("n", 3),
    "atom_var": ("n",),
    "atom_std": ("n",),
    "stress_var": (6,),
    "stress_std": (6,),
    "pressure_var": (),
    "pressure_std": (),
    "draw_deviations": ("K",),
}
K = 4


@pytest.fixture(scope="module")
def model(make_blip) -> Model:
    """A small BLIP of H and N with random weights."""
    network = make_blip()
    return Model(network, BlipPosterior(network.slot_shapes()))


@pytest.fixture(scope="module")
def ensemble(make_backbone) -> Model:
    """Three small networks."""
    members = [make_backbone(seed=seed) for seed in range(3)]
    return Model(members[0], EnsemblePosterior(stack_members([dict(m.named_parameters()) for m in members])))


def calculator(model, **settings):
    return BayesianCalculator(model, **({"n_draws": K, "raw": True, "device": "cpu"} | settings))


def counted(calc):
    """The needs of every predictor call from here on."""
    needs, predictor = [], calc.predictor

    class Counting:
        species, n_draws, surface = predictor.species, predictor.n_draws, predictor.surface
        has_stress, calibration = predictor.has_stress, predictor.calibration

        def __call__(self, structures, need=Need()):
            needs.append(need)
            return predictor(structures, need)

    calc.predictor = Counting()
    return needs


def calibration_for(model, surface="mean", elements=(1, 7)):
    return Calibration(
        surface=surface,
        n_draws=K,
        seed=0,
        model_hash=model.hash,
        scale=dict(zip(elements, (4.0, 9.0), strict=False)),
        scale_energy=16.0,
        q_atom={},
        q_frame={0.95: 2.0},
        n_frames=10,
        n_atoms=dict.fromkeys(elements, 10),
        frames_hash="",
    )


# the results contract


def test_every_key_with_its_shape(model, crystal):
    calc = crystal.calc = calculator(model)
    assert calc.implemented_properties == list(CONTRACT)
    for key, shape in CONTRACT.items():
        value = calc.get_property(key, crystal)
        assert np.shape(value) == tuple({"n": len(crystal), "K": K}.get(s, s) for s in shape), key
        assert np.asarray(value).dtype == np.float64, key
        assert np.isfinite(value).all(), key
    assert set(calc.results) == set(CONTRACT)


def test_every_key_alone(model, crystal):
    calc = calculator(model)
    together = calculator(model)
    for key in CONTRACT:
        calc.reset()
        np.testing.assert_allclose(
            calc.get_property(key, crystal), together.get_property(key, crystal), rtol=1e-9, atol=1e-12, err_msg=key
        )


def test_values_belong_together(model, crystal):
    calc = crystal.calc = calculator(model)
    crystal.get_stress()
    r = calc.results
    assert r["free_energy"] == r["energy"] == crystal.get_potential_energy(force_consistent=True)
    assert r["energies"].sum() == pytest.approx(r["energy"], abs=1e-10)
    for key in ("energy", "forces", "atom", "stress"):
        assert np.array_equal(np.sqrt(r[f"{key}_var"]), r[f"{key}_std"])
    np.testing.assert_allclose(r["atom_var"], r["forces_var"].mean(axis=1), rtol=1e-12)
    (prediction,) = calc.predictor([crystal], Need(stress=True, samples=True))
    samples = prediction.samples
    np.testing.assert_allclose(r["energy"], samples.energy.mean(), rtol=1e-12)
    np.testing.assert_allclose(r["forces"], samples.forces.mean(0), atol=1e-12)
    np.testing.assert_allclose(r["forces_var"], samples.forces.var(0, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(r["energy_var"], samples.energy.var(ddof=1), rtol=1e-9)
    np.testing.assert_allclose(r["draw_deviations"], samples.energy - r["energy"], atol=1e-13)
    np.testing.assert_allclose(r["stress_var"], samples.stress.var(0, ddof=1), rtol=1e-9)


def test_a_molecule_has_no_stress(model, molecule):
    calc = molecule.calc = calculator(model)
    forces = molecule.get_forces()
    of_stress = {"stress", "stress_var", "stress_std", "pressure_var", "pressure_std"}
    assert set(calc.results) == set(CONTRACT) - of_stress
    for key in of_stress:
        with pytest.raises(PropertyNotImplementedError, match="periodic in three directions"):
            calc.get_property(key, molecule)
    molecule.set_cell(np.eye(3) * 12)
    molecule.pbc = (True, True, False)
    with pytest.raises(PropertyNotImplementedError):
        molecule.get_stress()
    molecule.pbc = True
    assert molecule.get_stress().shape == (6,)
    np.testing.assert_allclose(molecule.get_forces(), forces, atol=1e-12)


def test_unknown_properties_are_ases_error(model, molecule):
    with pytest.raises(PropertyNotImplementedError):
        calculator(model).get_property("dipole", molecule)


def test_other_calculators_are_left_alone(model):
    shared, emt, own = Calculator.implemented_properties, list(EMT.implemented_properties), list(all_properties)
    calc = calculator(model)
    calc.implemented_properties.append("dipole")
    assert "dipole" not in calculator(model).implemented_properties
    assert "dipole" not in BayesianCalculator.implemented_properties
    assert Calculator.implemented_properties is shared
    assert shared == []
    assert emt == EMT.implemented_properties
    assert own == all_properties


def test_one_draw_has_no_variance(model, crystal):
    calc = crystal.calc = calculator(model, n_draws=1, raw=False)
    assert not set(calc.implemented_properties) & set(VARIANCES)
    crystal.get_stress()
    assert not set(calc.results) & set(VARIANCES)
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("atom_std", crystal)


def test_a_point_estimate_has_one_draw(make_backbone, molecule):
    calc = BayesianCalculator(Model(make_backbone(), PointPosterior()), device="cpu")
    assert calc.predictor.n_draws == 1
    molecule.calc = calc
    assert np.isfinite(molecule.get_forces()).all()


def test_an_ensemble_has_no_more_draws_than_members(ensemble, molecule):
    with pytest.raises(DrawsError, match="3 members"):
        calculator(ensemble, n_draws=4)
    with pytest.raises(DrawsError, match="surface='mean'"):
        calculator(ensemble, n_draws=3, surface="centre")
    assert calculator(ensemble, n_draws=3).get_property("atom_std", molecule).shape == (len(molecule),)
    usual = BayesianCalculator(ensemble, device="cpu", raw=True)  # without a number: all members there are, 16 at most
    assert usual.predictor.n_draws == 3
    assert usual.get_property("atom_std", molecule).shape == (len(molecule),)


# laziness and the cache


def test_nothing_is_computed_that_was_not_asked_for(model, crystal):
    calc = crystal.calc = calculator(model, surface="centre")
    needs = counted(calc)
    crystal.get_potential_energy()
    crystal.get_forces()
    crystal.get_stress()
    calc.get_property("atom_std", crystal)
    crystal.get_forces()
    crystal.get_stress()
    assert needs == [
        Need(forces=False, stress=False, variance=False),
        Need(forces=True, stress=False, variance=False),
        Need(forces=True, stress=True, variance=False),
        Need(forces=True, stress=True, variance=True),
    ]


def test_the_mean_surface_gives_its_spread_for_nothing(model, molecule):
    calc = molecule.calc = calculator(model)
    needs = counted(calc)
    molecule.get_forces()
    for key in ("energy", "free_energy", "energies", "atom_std", "forces_var", "energy_std"):
        calc.get_property(key, molecule)
    assert len(needs) == 1


def test_the_cache(model, molecule):
    calc = molecule.calc = calculator(model)
    needs = counted(calc)
    first = molecule.get_forces()
    molecule.info["sigma"] = calc.get_property("atom_std", molecule)
    molecule.arrays["mine"] = np.zeros(len(molecule))
    molecule.set_constraint(FixAtoms([0]))
    molecule.get_forces()
    twin = molecule.copy()
    calc.get_property("energy", twin)
    assert len(needs) == 1
    molecule.set_constraint()
    molecule.positions[0, 0] += 1e-6
    assert not np.array_equal(molecule.get_forces(), first)
    assert len(needs) == 2
    calc.get_forces(molecule)[:] = 0  # a copy
    assert molecule.get_forces().any()


def test_the_prediction_is_the_door_to_the_rest(model, molecule):
    calc = molecule.calc = calculator(model)
    assert calc.prediction is None
    molecule.get_forces()
    assert calc.prediction.forces_cov.shape == (len(molecule), 3, 3)
    assert (calc.prediction.n_draws, calc.prediction.surface) == (K, "mean")
    calc.reset()
    assert calc.prediction is None
    assert calc.results == {}


def test_get_uncertainty(model, molecule):
    calc = calculator(model)
    assert np.array_equal(calc.get_uncertainty(molecule), calc.results["atom_std"])


def test_foreign_callers_do_not_stumble_over_our_keys(model, crystal):
    crystal.calc = calculator(model)
    properties = crystal.get_properties(["energy", "forces", "stress"])
    assert np.array_equal(properties["forces"], crystal.get_forces())
    exported = set(crystal.calc.export_properties())
    assert {"energy", "free_energy", "energies", "forces", "stress"} <= exported
    assert not exported & set(VARIANCES)


# surfaces, seeds, copies


def test_same_seed_same_bits(model, molecule):
    first, second, other = calculator(model), calculator(model), calculator(model, seed=1)
    for key in ("energy", "forces", "atom_std"):
        assert np.array_equal(first.get_property(key, molecule), second.get_property(key, molecule))
        assert not np.array_equal(first.get_property(key, molecule), other.get_property(key, molecule))


def test_building_a_calculator_leaves_the_process_alone(model, molecule):
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    calculator(model, dtype="float32").get_property("forces", molecule)
    assert torch.equal(state, torch.random.get_rng_state())
    assert dtype == torch.get_default_dtype()
    assert all(torch.equal(weights[name], value) for name, value in model.network.state_dict().items())


def test_the_two_surfaces(model, molecule):
    mean, centre = calculator(model), calculator(model, surface="centre")
    assert not np.allclose(mean.get_property("forces", molecule), centre.get_property("forces", molecule), atol=1e-9)
    for key in VARIANCES[:6]:  # of the draws around their own mean, on either
        np.testing.assert_allclose(mean.get_property(key, molecule), centre.get_property(key, molecule), rtol=1e-9)
    assert centre.prediction.surface == "centre"
    plain = calculator(Model(model.network, PointPosterior()))
    np.testing.assert_allclose(
        plain.get_property("forces", molecule), centre.get_property("forces", molecule), atol=1e-10
    )


@pytest.mark.parametrize("surface", ["mean", "centre"])
def test_forces_are_the_gradient_of_the_energy(model, molecule, surface):
    calc = molecule.calc = calculator(model, surface=surface)
    forces = molecule.get_forces()
    numeric = np.zeros_like(forces)
    for i in range(len(molecule)):
        for j in range(3):
            values = []
            for step in (-2e-4, 2e-4):
                moved = molecule.copy()
                moved.positions[i, j] += step
                values.append(calc.get_property("energy", moved))
            numeric[i, j] = (values[0] - values[1]) / 4e-4
    np.testing.assert_allclose(forces, numeric, atol=1e-6)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda calc: pickle.loads(pickle.dumps(calc))])
@pytest.mark.parametrize("surface", ["mean", "centre"])
def test_copies_give_the_same_numbers(model, molecule, clone, surface):
    calc = calculator(model, surface=surface)
    fresh = clone(calc)
    calc.get_property("atom_std", molecule)
    for other in (fresh, clone(calc)):
        for key in ("atom_std", "forces", "energy"):
            assert np.array_equal(calc.get_property(key, molecule), other.get_property(key, molecule))


def test_single_precision_is_near_and_reported_in_double(model, molecule):
    double, single = calculator(model), calculator(model, dtype="float32")
    assert single.get_property("forces", molecule).dtype == np.float64
    np.testing.assert_allclose(
        single.get_property("forces", molecule), double.get_property("forces", molecule), atol=1e-4
    )


# calibration


def test_without_a_calibration_it_warns(model):
    with pytest.warns(UncalibratedWarning, match="n_draws=4, seed=0"):
        calculator(model, raw=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calculator(model, raw=True).calibration is None


@pytest.mark.parametrize("surface", ["mean", "centre"])
def test_a_calibration_scales_variances_once(model, molecule, surface):
    calibrated = model.with_calibrations(calibration_for(model, surface))
    calc, raw = calculator(calibrated, raw=False, surface=surface), calculator(calibrated, surface=surface)
    factors = np.where(molecule.numbers == 1, 4.0, 9.0)
    np.testing.assert_allclose(
        calc.get_property("atom_var", molecule), factors * raw.get_property("atom_var", molecule), rtol=1e-12
    )
    np.testing.assert_allclose(
        calc.get_property("energy_std", molecule), 4 * raw.get_property("energy_std", molecule), rtol=1e-12
    )
    for key in ("energy", "forces"):
        assert np.array_equal(calc.get_property(key, molecule), raw.get_property(key, molecule))
    assert np.array_equal(calc.prediction.raw.atom_std, raw.get_property("atom_std", molecule))
    assert calc.calibration.halt_limit(1.0) == 0.5


def test_an_element_never_calibrated_is_nan(model, molecule):
    calibrated = model.with_calibrations(calibration_for(model, elements=(1,)))
    calc = calculator(calibrated, raw=False)
    std = calc.get_property("atom_std", molecule)
    assert np.array_equal(np.isnan(std), molecule.numbers == 7)
    assert np.isfinite(calc.get_property("forces", molecule)).all()
    assert np.isfinite(calculator(calibrated, raw=True).get_property("atom_std", molecule)).all()


# refusals


def broken(name, atoms):
    """(what to do to a structure, the error that names it)."""
    atoms = atoms.copy()
    if name == "nan":
        atoms.positions[1, 2] = np.nan
    elif name == "inf":
        atoms.positions[1, 2] = np.inf
    elif name == "element":
        atoms.numbers[0] = 79
    elif name == "coincident":
        atoms.positions[1] = atoms.positions[0]
    elif name == "cell":
        atoms.set_cell([[1, 0, 0], [2, 0, 0], [0, 0, 3]])
        atoms.pbc = True
    elif name == "no cell":
        atoms.set_cell(None)
        atoms.pbc = True
    elif name == "nan cell":
        atoms.set_cell(np.diag([5.0, 5.0, np.nan]))
        atoms.pbc = True
    elif name == "empty":
        del atoms[:]
    return atoms


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nan", NonFiniteError, r"atoms \[1\]"),
        ("inf", NonFiniteError, r"atoms \[1\]"),
        ("element", UnknownElementError, "Au"),
        ("coincident", CoincidentAtomsError, "atoms 0 and 1"),
        ("cell", SingularCellError, "independent cell vectors"),
        ("no cell", SingularCellError, "independent cell vectors"),
        ("nan cell", NonFiniteError, "cell"),
        ("empty", EmptyStructureError, "at least one atom"),
    ],
)
def test_bad_structures_are_named_and_leave_nothing_stale(model, molecule, name, error, message):
    calc = molecule.calc = calculator(model)
    good = molecule.get_forces()
    bad = broken(name, molecule)
    for key in ("forces", "energy", "atom_std"):
        with pytest.raises(error, match=message):
            calc.get_property(key, bad)
        assert calc.results == {}
        assert calc.prediction is None
    assert issubclass(error, StructureError)
    with pytest.raises(error):
        calc.get_property("energy")  # of the last structure, which is the bad one
    assert np.array_equal(molecule.get_forces(), good)


def test_weights_that_give_nan_are_refused(model, molecule):
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        calculator(Model(network, model.posterior)).get_property("energy", molecule)


def test_wrong_settings_are_named(model):
    for source in (3, EMT, EMT()):
        with pytest.raises(ConfigurationError, match="expected a model name"):
            BayesianCalculator(source)
    with pytest.raises(ConfigurationError, match="expected 'mean' or 'centre'"):
        calculator(model, surface="center")
    for dtype in ("float16", "double", "foo"):
        with pytest.raises(ConfigurationError, match="expected 'float32' or 'float64'"):
            calculator(model, dtype=dtype)
    for device in ("nowhere", "cuda:97"):
        with pytest.raises(ConfigurationError, match="cannot be used"):
            calculator(model, device=device)
    for n_draws in (0, 2.5):
        with pytest.raises(DrawsError):
            calculator(model, n_draws=n_draws)
    with pytest.raises(ModelFileError, match="no file nowhere"):
        BayesianCalculator("nowhere")


def test_settings_stay_as_they_were_made(model, molecule):
    calc = calculator(model, n_draws=3)
    with pytest.raises(ConfigurationError, match="seed: settings are fixed"):
        calc.set(seed=7)
    assert calc.parameters["seed"] == 0
    calibrated = calc.predictor
    calibrated.calibration = object()
    for settings in ({"n_draws": 4}, {"dtype": "float32"}, {"surface": "mean"}, {"raw": True}):
        with pytest.raises(ConfigurationError, match="has its own"):
            BayesianCalculator(calibrated, **settings)
    calibrated.calibration = None
    single = BayesianPredictor(model.network, model.posterior, dtype="float32")
    assert BayesianCalculator(single, raw=True).parameters["dtype"] == "float32"


def test_a_calculator_without_atoms(model):
    for ask in (lambda calc: calc.calculate(), lambda calc: calc.get_samples()):
        with pytest.raises(EmptyStructureError, match="got None"):
            ask(calculator(model))


def test_samples_have_the_mean_and_the_spread_of_the_results(model, molecule):
    molecule.calc = calculator(model, n_draws=5)
    forces, samples = molecule.get_forces(), molecule.calc.get_samples(molecule)
    assert samples.forces.shape == (5, len(molecule), 3)
    np.testing.assert_allclose(samples.forces.mean(0), forces, atol=1e-12)
    variance = molecule.calc.get_property("forces_var", molecule)
    np.testing.assert_allclose(samples.forces.var(0, ddof=1), variance, rtol=1e-6, atol=1e-14)


# committees of other calculators


def copper(seed=0):
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.08, seed=seed)
    return atoms


def test_a_committee_equals_numpy():
    atoms = copper()
    factors = np.array([0.8, 0.9, 1.0, 1.25])
    calc = atoms.calc = BayesianCalculator(committee([ScaledEMT(f) for f in factors]), raw=True)
    stress, forces = atoms.get_stress(), atoms.get_forces()
    bare = copper()
    bare.calc = EMT()
    f, s, e = bare.get_forces(), bare.get_stress(), bare.get_potential_energy()
    np.testing.assert_allclose(forces, f * factors.mean(), atol=1e-12)
    np.testing.assert_allclose(stress, s * factors.mean(), atol=1e-12)
    np.testing.assert_allclose(calc.results["energy_var"], e**2 * factors.var(ddof=1), rtol=1e-9)
    np.testing.assert_allclose(calc.results["forces_var"], f**2 * factors.var(ddof=1), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(calc.results["stress_var"], s**2 * factors.var(ddof=1), rtol=1e-9, atol=1e-18)
    np.testing.assert_allclose(calc.results["atom_var"], (f**2).mean(1) * factors.var(ddof=1), rtol=1e-9, atol=1e-15)
    assert "energies" not in calc.results


def test_members_see_charges_and_spins():
    class Charged(EMT):
        def calculate(self, atoms, *args, **kwargs):
            super().calculate(atoms, *args, **kwargs)
            shift = atoms.get_initial_charges().sum() + 10 * atoms.get_initial_magnetic_moments().sum()
            self.results["energy"] = shift + 100 * atoms.info.get("spin", 0)

    atoms = copper()
    atoms.set_initial_charges([1.0, *[0.0] * 7])
    atoms.set_initial_magnetic_moments([2.0, *[0.0] * 7])
    atoms.info["spin"] = 3
    atoms.calc = BayesianCalculator(committee([Charged(), Charged()]), raw=True)
    assert atoms.get_potential_energy() == pytest.approx(321.0)


def test_a_committee_has_no_energies_of_atoms():
    atoms = copper()
    atoms.calc = BayesianCalculator(committee([ScaledEMT(1.0), ScaledEMT(1.1)]), raw=True)
    assert "energies" not in atoms.calc.implemented_properties
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energies()


def test_members_are_evaluated_once_per_structure():
    atoms, members = copper(), [ScaledEMT(0.9), ScaledEMT(1.1)]
    calc = atoms.calc = BayesianCalculator(committee(members), raw=True)
    atoms.get_forces()
    calc.get_property("atom_std", atoms)
    atoms.info["x"] = 1
    atoms.get_potential_energy()
    assert [m.evaluations for m in members] == [1, 1]


def test_a_committee_of_one_and_of_none():
    assert not set(BayesianCalculator(committee([EMT()])).implemented_properties) & set(VARIANCES)
    with pytest.raises(ConfigurationError, match="at least one"):
        committee([])
    atoms = copper()
    atoms.positions[0] = np.nan
    calc = BayesianCalculator(committee([EMT(), LennardJones()]), raw=True)
    with pytest.raises(NonFiniteError):
        calc.get_property("forces", atoms)


def test_a_committee_of_xtb_hamiltonians():
    tblite = pytest.importorskip("tblite.ase")
    atoms = Atoms("OH2", [[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.80, -0.47]])
    methods = ("GFN1-xTB", "GFN2-xTB")
    calc = atoms.calc = BayesianCalculator(committee([tblite.TBLite(method=m, verbosity=0) for m in methods]), raw=True)
    forces = atoms.get_forces()
    alone = []
    for method in methods:
        bare = atoms.copy()
        bare.calc = tblite.TBLite(method=method, verbosity=0)
        alone.append(bare.get_forces())
    np.testing.assert_allclose(forces, np.mean(alone, axis=0), atol=1e-10)
    np.testing.assert_allclose(calc.results["forces_var"], np.var(alone, axis=0, ddof=1), rtol=1e-6, atol=1e-12)


# inside ASE's algorithms


def wells():
    """ScaledEMT EMT behind the calculator, stable under every algorithm, and a member that counts its evaluations."""
    atoms, member = copper(), ScaledEMT(1.1)
    atoms.calc = BayesianCalculator(committee([EMT(), member]), raw=True)
    return atoms, member


@pytest.mark.parametrize("optimizer", [BFGS, FIRE])
@pytest.mark.parametrize("cell", [False, True])
def test_optimisers_evaluate_once_per_step(optimizer, cell):
    atoms, member = wells()
    dynamics = optimizer(FrechetCellFilter(atoms) if cell else atoms, logfile=None)
    dynamics.run(fmax=1e-8, steps=6)
    assert dynamics.nsteps == 6
    assert member.evaluations == 7


@pytest.mark.parametrize("optimizer", [BFGS, FIRE])
@pytest.mark.parametrize("surface", ["mean", "centre"])
@pytest.mark.parametrize("cell", [False, True])
def test_optimisers_call_the_network_once_per_step(model, crystal, optimizer, surface, cell):
    crystal.calc = calculator(model, surface=surface)
    needs = counted(crystal.calc)
    dynamics = optimizer(FrechetCellFilter(crystal) if cell else crystal, logfile=None, maxstep=0.01)
    dynamics.run(fmax=1e-8, steps=4)
    assert dynamics.nsteps == 4
    assert len(needs) == 5
    assert all(need.stress == cell and not need.variance for need in needs)


def test_an_optimiser_converges(model, molecule):
    molecule.calc = calculator(model)
    molecule.set_constraint(FixAtoms([0]))
    dynamics = BFGS(molecule, logfile=None, maxstep=0.05)
    before = molecule.get_potential_energy()
    dynamics.run(fmax=1e-3, steps=5)
    assert molecule.get_potential_energy() < before
    assert np.array_equal(molecule.get_forces()[0], np.zeros(3))


@pytest.mark.parametrize("integrator", ["verlet", "langevin"])
def test_md_calls_once_per_step(integrator):
    atoms, member = wells()
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
    dynamics = (
        VelocityVerlet(atoms, 2 * units.fs)
        if integrator == "verlet"
        else Langevin(
            atoms,
            2 * units.fs,
            temperature_K=300,
            friction=0.01 / units.fs,
            fixcm=False,
            rng=np.random.default_rng(1),
        )
    )
    atoms.get_forces()
    start = atoms.get_total_energy()
    dynamics.run(20)
    assert member.evaluations == 21
    if integrator == "verlet":
        assert abs(atoms.get_total_energy() - start) < 1e-3 * len(atoms)


def test_md_of_a_network_conserves_energy(model, molecule):
    molecule.calc = calculator(model)
    needs = counted(molecule.calc)
    dynamics = VelocityVerlet(molecule, 0.1 * units.fs)
    molecule.get_forces()
    start = molecule.get_total_energy()
    dynamics.run(30)
    moved = molecule.get_kinetic_energy()
    assert len(needs) == 31
    assert moved > 0
    assert abs(molecule.get_total_energy() - start) < max(1e-2 * moved, 1e-8)
