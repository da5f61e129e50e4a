"""The surfaces behind a calculator: sums with exact parts, committees, calibration_factor, refusals."""

from functools import partial

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from scaled_emt import ScaledEMT

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.draw_surfaces import Surfaces, gradient
from blipcalc.core.deformation import displaced
from blipcalc.core.differenced import Differenced
from blipcalc.core.prediction import Calibration
from blipcalc.core.predictor_contract import Predictor
from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.predictor import BayesianPredictor

FACTORS = np.array([0.9, 1.0, 1.2])


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


def scaled_emt(calibration=None):
    return BayesianCalculator(committee([ScaledEMT(f) for f in FACTORS], calibration), raw=calibration is None)


def test_draws_of_a_committee(copper):
    (both,) = Surfaces(scaled_emt())([copper], stress=True)
    copper.calc = EMT()
    energy = copper.get_potential_energy()
    assert np.allclose(both.draws.energy, FACTORS * energy)
    assert both.driving.energy == pytest.approx(FACTORS.mean() * energy)
    assert np.allclose(both.draws.stress, FACTORS[:, None] * copper.get_stress())


def test_exact_parts_are_added_to_every_surface(copper):
    morse = MorsePotential(epsilon=0.1, r0=2.5, rcut1=4.0, rcut2=5.0)
    sum_of_both = Surfaces(CombinedCalculator(scaled_emt(), morse))
    (both,) = sum_of_both([copper])
    (alone,) = Surfaces(scaled_emt())([copper])
    extra = morse.get_potential_energy(copper)
    assert np.allclose(both.draws.energy - alone.draws.energy, extra)
    assert both.driving.energy - alone.driving.energy == pytest.approx(extra)
    assert np.allclose(both.draws.forces - alone.draws.forces, morse.get_forces(copper))
    own = sum_of_both.each([copper] * 3)
    assert np.allclose(own.energy, both.draws.energy)


def test_energies_are_estimates_and_differences_keep_what_is_shared(copper):
    strained = displaced(copper, np.r_[np.zeros(12), 0.02 * np.ones(3), np.zeros(3)])
    energies = Surfaces(scaled_emt()).energies([copper, strained])
    difference = energies[1] - energies[0]
    assert np.allclose(difference.draws, FACTORS / FACTORS.mean() * difference.value)


def test_gradients_of_strains_are_those_of_the_energy(copper):
    surfaces = Surfaces(scaled_emt())
    (both,) = surfaces([copper], stress=True)
    found = gradient(both.driving, copper, strain=True, pressure=0.01)
    h = 1e-5
    for k in (3, 12, 14, 15, 17):
        q = h * np.eye(18)[k]
        up, down = displaced(copper, q), displaced(copper, -q)
        energies = [both.driving.energy for both in surfaces([up, down], forces=False)]
        expected = (energies[0] - energies[1] + 0.01 * (up.get_volume() - down.get_volume())) / (2 * h)
        assert found[k] == pytest.approx(expected, abs=1e-6)


def test_the_calibration_widens():
    calibration = Calibration(
        surface="mean", n_draws=3, seed=0, model_hash="", scale={29: 4.0, 1: 1.0}, scale_energy=9.0, q_atom={}, q_frame={},
        n_frames=0, n_atoms={}, frames_hash="",
    )  # fmt: skip
    surfaces = Surfaces(scaled_emt(calibration))
    copper = bulk("Cu")
    assert surfaces.calibration_factor(copper, "forces") == 2.0
    assert surfaces.calibration_factor(copper, "energy") == 3.0
    assert np.isnan(surfaces.calibration_factor(bulk("Al"), "forces"))
    energies = surfaces.energies([copper])
    assert energies.calibrated
    assert energies.calibration_factor == 3.0
    # what draws have alike for all structures is no part of a difference
    assert (energies - energies).calibration_factor == energies.relative().calibration_factor == 2.0
    assert (energies + energies).calibration_factor == 3.0
    unknown = surfaces.estimate(1.0, [1.0, 1.1], "Å", bulk("Al"), of="forces")
    assert np.isnan(unknown.std)
    assert unknown.value == 1.0


def test_members_of_a_committee_one_by_one(copper):
    surfaces = Surfaces(scaled_emt())
    (both,) = surfaces([copper], stress=True)
    for k in range(3):
        one = surfaces.single(k)
        assert one.get_property("energy", copper) == both.draws.energy[k]
        assert np.array_equal(one.get_property("stress", copper), both.draws.stress[k])
        assert one.get_property("energy_std", copper) == pytest.approx(both.draws.energy.std(ddof=1))
    with pytest.raises(DrawsError, match="expected one of the draws 0 … 2"):
        surfaces.single(3)
    with pytest.raises(DrawsError, match="k='a'"):
        surfaces.single("a")


def test_what_has_no_spread_is_refused():
    with pytest.raises(ConfigurationError, match="got EMT"):
        Surfaces(EMT())
    with pytest.raises(DrawsError, match="two draws"):
        Surfaces(BayesianCalculator(committee([EMT()])))


class Whole(Predictor):
    """A predictor that cannot take its draws apart."""

    def __init__(self, predictor):
        self._predictor = predictor
        for name in ("species", "n_draws", "surface", "has_stress", "has_energies", "heads"):
            setattr(self, name, getattr(predictor, name))

    def __call__(self, structures, need=None):
        return self._predictor(structures, need)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("summed", [True, False])
def test_one_draw_alone_is_that_draw(copper, apart, summed):
    members = committee([ScaledEMT(f) for f in FACTORS])
    calculator = BayesianCalculator(members if apart else Whole(members), raw=True)
    if summed:
        calculator = CombinedCalculator(calculator, MorsePotential(epsilon=0.1, r0=2.5, rcut1=4.0, rcut2=5.0))
    surfaces = Surfaces(calculator)
    (both,) = surfaces([copper])
    for k in range(3):
        one = surfaces.single(k)
        assert one.get_property("energy", copper) == pytest.approx(both.draws.energy[k], abs=1e-12)
        assert np.allclose(one.get_property("forces", copper), both.draws.forces[k], atol=1e-12)
    assert abs(both.draws.energy[0] - both.draws.energy[1]) > 1e-4  # control: draws differ
    with pytest.raises(DrawsError, match=r"0 … 2"):
        surfaces.single(3)


def test_draws_of_another_network_are_others_though_their_noise_is_the_same(make_blip, molecule):
    def energies(seed):
        network = make_blip("painn", seed)
        predictor = BayesianPredictor(network, BlipPosterior(network.slot_shapes()), n_draws=3)
        return Surfaces(BayesianCalculator(predictor, raw=True)).energies([molecule])

    one, alike, other = energies(0), energies(0), energies(1)
    assert (one - alike).std == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(DrawsError, match="K and draws"):
        one - other


def test_a_draw_of_a_network_alone(make_blip, molecule):
    network = make_blip("painn")
    predictor = BayesianPredictor(network, BlipPosterior(network.slot_shapes()), n_draws=3, surface="centre")
    surfaces = Surfaces(BayesianCalculator(predictor, raw=True))
    (both,) = surfaces([molecule])
    for k in range(3):
        assert np.allclose(surfaces.single(k).get_property("forces", molecule), both.draws.forces[k], atol=1e-10)
    assert np.allclose(predictor([molecule])[0].forces, both.driving.forces, atol=1e-12)  # the whole is left as it was


@pytest.mark.parametrize("apart", [True, False])
def test_hessians_of_draws_by_differences(copper, apart):
    members = committee([ScaledEMT(f) for f in FACTORS])
    surfaces = Surfaces(BayesianCalculator(members if apart else Whole(members), raw=True))
    structures = [displaced(copper, 0.01 * k * np.eye(12)[3]) for k in range(3)]
    found = surfaces.hessians(structures)
    for k, atoms in enumerate(structures):
        alone = FACTORS[k] / FACTORS.mean() * surfaces.hessian(atoms).matrix()
        assert np.allclose(found[k], alone, atol=1e-6)
    rows = surfaces.hessians(structures, np.eye(12)[[2, 5]])
    assert np.allclose(rows, found[:, [2, 5]], atol=1e-6)
    with pytest.raises(DrawsError, match="got 2"):
        surfaces.hessians(structures[:2])


def test_a_hessian_is_that_of_the_structure_it_was_asked_for(copper):
    hessian = Surfaces(BayesianCalculator(committee([ScaledEMT(f) for f in FACTORS]), raw=True)).hessian(copper)
    before = hessian.product(np.eye(12)[:2])
    copper.positions[0] += 0.3
    assert np.array_equal(hessian.product(np.eye(12)[:2]), before)


@pytest.mark.parametrize("name", ["painn", "visnet"])
def test_hessians_of_the_draws_of_a_network(make_blip, molecule, name, monkeypatch):
    monkeypatch.setattr("blipcalc.core.differenced.STEP", 1e-4)
    network = make_blip(name)
    predictor = BayesianPredictor(network, BlipPosterior(network.slot_shapes()), n_draws=3)
    surfaces = Surfaces(BayesianCalculator(predictor, raw=True))
    found = surfaces.hessians([molecule] * 3)
    assert np.allclose(found.mean(axis=0), surfaces.hessian(molecule).matrix(), atol=1e-10)
    size = 3 * len(molecule)
    slopes = Differenced(partial(surfaces.slopes_at, [molecule] * 3), size).product(np.eye(size)).swapaxes(0, 1)
    assert np.abs(slopes - found).max() < 1e-5 * np.abs(found).max()
    assert np.abs(found[0] - found[1]).max() > 1e-4 * np.abs(found).max()  # control
