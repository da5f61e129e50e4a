"""The surfaces behind a calculator: sums with exact parts, committees, widening, refusals."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential

from blipcalc.adapters.committee import committee
from blipcalc.calculator import BayesianCalculator
from blipcalc.combined import CombinedCalculator
from blipcalc.core.prediction import Calibration
from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.surfaces import Surfaces, displaced, gradient


class Scaled(EMT):
    """EMT times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        for key, value in self.results.items():
            self.results[key] = value * self.factor


FACTORS = np.array([0.9, 1.0, 1.2])


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


def scaled_emt(calibration=None):
    return BayesianCalculator(committee([Scaled(f) for f in FACTORS], calibration), raw=calibration is None)


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
    assert surfaces.widening(copper, "forces") == 2.0
    assert surfaces.widening(copper, "energy") == 3.0
    assert np.isnan(surfaces.widening(bulk("Al"), "forces"))
    energies = surfaces.energies([copper])
    assert energies.calibrated
    assert energies.widening == 3.0
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
    with pytest.raises(DrawsError, match="draw 3; expected one of 0 to 2"):
        surfaces.single(3)
    with pytest.raises(DrawsError, match="k='a'"):
        surfaces.single("a")


def test_a_predictor_that_cannot_be_taken_apart_is_named():
    class Whole:
        species, n_draws, surface, has_stress, has_energies, heads = None, 2, "mean", False, False, "none"

    with pytest.raises(ConfigurationError, match="no method single"):
        Surfaces(BayesianCalculator(Whole(), raw=True)).single(0)


def test_what_has_no_spread_is_refused():
    with pytest.raises(ConfigurationError, match="got EMT"):
        Surfaces(EMT())
    with pytest.raises(DrawsError, match="two draws"):
        Surfaces(BayesianCalculator(committee([EMT()])))
