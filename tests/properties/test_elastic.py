"""Elastic constants of ensembles whose members scale, and of members that ASE relaxes one by one."""

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.core.deformation import displaced
from blipcalc.errors import ConfigurationError, NotConvergedError, StructureError
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.predictor import BayesianPredictor
from blipcalc.properties import elastic_constants, equation_of_state
from blipcalc.properties.elastic import stress_strain
from blipcalc.properties.elastic_moduli import ElasticConstants, reuss_bulk, reuss_shear, voigt_bulk, voigt_shear
from blipcalc.stats.estimate import Estimate

SPREADS = 0.02, 0.005


def spread_of(values):
    """Relative."""
    return np.ptp(values) / np.mean(values)


def test_of_lennard_jones_every_draw_scales(argon, lj):
    found = elastic_constants(argon, fmax=1e-3)
    epsilon, sigma = lj.epsilon, lj.sigma
    c = found.tensor.draws
    for i, j in ((0, 0), (0, 1), (3, 3)):
        assert spread_of(c[:, i, j] * sigma**3 / epsilon) < 2e-4
    assert spread_of(found.cell.draws[:, 0, 1] / sigma) < 1e-5
    assert np.allclose(c[:, 0, 1], c[:, 3, 3], rtol=1e-3)  # Cauchy: pair forces, no pressure
    cubic = np.zeros((6, 6))
    cubic[:3, :3] = c[0, 0, 1]
    cubic[range(6), range(6)] = [c[0, 0, 0]] * 3 + [c[0, 3, 3]] * 3
    assert np.allclose(c[0], cubic, atol=1e-4 * cubic.max())
    relative = found.tensor[0, 0].std / found.tensor[0, 0].value
    assert relative**2 == pytest.approx(SPREADS[0] ** 2 + 9 * SPREADS[1] ** 2, rel=0.01)
    bulk_modulus = found.bulk_modulus_reuss
    assert np.allclose(bulk_modulus.draws, (c[:, 0, 0] + 2 * c[:, 0, 1]) / 3)
    curve = equation_of_state(argon, strain=0.012)
    assert np.allclose(curve.bulk_modulus.draws, bulk_modulus.draws, rtol=3e-3)
    assert found.poisson_ratio.std < 1e-4
    assert found.stable == 1


def test_where_the_relaxation_stops_does_not_matter(argon):
    """Newton steps follow it."""
    tight = elastic_constants(argon, fmax=1e-4)
    argon.set_cell(bulk("Ar", "fcc", a=5.33).cell.array, scale_atoms=True)
    argon.set_scaled_positions([[0.1, 0.2, 0.3]])
    loose = elastic_constants(argon, fmax=0.03)
    assert np.allclose(loose.tensor.draws, tight.tensor.draws, atol=2e-4 * tight.tensor.value.max())
    assert np.allclose(loose.tensor.value, tight.tensor.value, atol=1e-4 * tight.tensor.value.max())


def test_a_shared_lattice_puts_the_draws_under_pressure(argon, lj):
    """The positive control: there the elements do not scale, and the relation of Cauchy does not hold."""
    argon.set_cell(bulk("Ar", "fcc", a=5.2577).cell.array, scale_atoms=True)
    found = elastic_constants(argon, shared_lattice=True)
    c = found.tensor.draws
    assert spread_of(c[:, 0, 0] * lj.sigma**3 / lj.epsilon) > 0.1
    assert np.abs(c[:, 0, 1] / c[:, 3, 3] - 1).max() > 0.01
    assert spread_of(found.cell.draws[:, 0, 1]) == 0
    # under hydrostatic pressure: c12 - c44 = 2p
    pressures = -Surfaces(argon.calc)([argon], stress=True)[0].draws.stress[:, :3].mean(axis=1) / GPa
    assert np.abs(pressures).max() > 0.02
    assert np.allclose(c[:, 0, 1] - c[:, 3, 3], 2 * pressures, atol=1e-3)


@pytest.fixture(scope="module")
def hexagonal(morse):
    atoms = bulk("Cu", "hcp", a=2.52, c=4.1)
    atoms.calc = morse.calculator
    return atoms


def relaxed_stress(atoms, make, e, ions=True):
    """(6,) of a strained crystal whose ions ASE relaxes."""
    moved = displaced(atoms, np.r_[np.zeros(3 * len(atoms)), e])
    moved.calc = make()
    assert not ions or BFGS(moved, logfile=None).run(fmax=1e-6, steps=300)
    return moved.get_stress()


def brute_force(atoms, make, ions=True, h=5e-4):
    """(6, 6) GPa of one member, in its own minimum."""
    own = atoms.copy()
    own.calc = make()
    assert BFGS(FrechetCellFilter(own), logfile=None).run(fmax=1e-5, steps=500)
    rows = [
        (relaxed_stress(own, make, h * e, ions) - relaxed_stress(own, make, -h * e, ions)) / (2 * h) for e in np.eye(6)
    ]
    return np.array(rows).T / GPa


def test_relaxed_ions_are_those_of_members_relaxed_one_by_one(hexagonal, morse):
    relaxed, clamped = elastic_constants(hexagonal), elastic_constants(hexagonal, clamped=True)
    for k in (0, 2):
        expected = brute_force(hexagonal, morse.members[k])
        assert np.allclose(relaxed.tensor.draws[k], expected, atol=1e-3 * expected.max())
    expected = brute_force(hexagonal, morse.members[0], ions=False)
    assert np.allclose(clamped.tensor.draws[0], expected, atol=1e-3 * expected.max())
    softer = relaxed.tensor[5, 5] - clamped.tensor[5, 5]
    assert (softer.draws < -0.005 * clamped.tensor[5, 5].value).all()
    assert softer.value < 0
    assert np.linalg.eigvalsh(clamped.tensor.value - relaxed.tensor.value)[0] > -1e-3


@pytest.mark.parametrize("clamped", [True, False])
def test_automatic_differentiation_and_differences_agree(make_blip, crystal, clamped):
    """Draws that are all the same: the surface that drives is differentiated, draws are differenced."""
    network = make_blip("painn", alpha_initial=1e-12)
    predictor = BayesianPredictor(network, BlipPosterior(network.slot_shapes()), n_draws=2, surface="centre")
    crystal.calc = BayesianCalculator(predictor, raw=True)
    found = elastic_constants(crystal, clamped=clamped, shared_lattice=True, fmax=0.05)
    largest = np.abs(found.tensor.value).max()
    assert np.abs(found.tensor.draws - found.tensor.value).max() < 1e-3 * largest


def test_stress_terms_turn_second_derivatives_into_slopes_of_the_stress(argon, lj):
    strain = np.array([-0.02, 0.015, 0.01, 0, 0, 0.01])
    argon = displaced(argon, np.r_[np.zeros(3), strain])
    argon.calc = lj.calculator
    matrix = Surfaces(argon.calc).hessian(argon, strain=True).matrix()[3:, 3:]
    stress, h = argon.calc.get_property("stress", argon), 1e-4
    slopes = []
    for e in np.eye(6):
        up, down = (argon.calc.get_property("stress", displaced(argon, np.r_[np.zeros(3), s * h * e])) for s in (1, -1))
        slopes.append((up - down) / (2 * h))
    slopes = np.array(slopes).T
    found = stress_strain(matrix / argon.get_volume(), stress)
    assert np.allclose(found, 0.5 * (slopes + slopes.T), atol=1e-4 * np.abs(slopes).max())
    terms = np.abs(matrix / argon.get_volume() - found).max()
    assert terms > 50 * 1e-4 * np.abs(slopes).max()  # control: they matter


def isotropic(k, g):
    c = np.zeros((6, 6))
    c[:3, :3] = k - 2 * g / 3
    c[range(3), range(3)] += 2 * g
    c[range(3, 6), range(3, 6)] = g
    return c


def test_moduli_of_isotropic_tensors():
    c = isotropic(100.0, 40.0)
    assert voigt_bulk(c) == pytest.approx(100)
    assert reuss_bulk(c) == pytest.approx(100)
    assert voigt_shear(c) == pytest.approx(40)
    assert reuss_shear(c) == pytest.approx(40)
    draws = np.stack([isotropic(95.0, 38.0), isotropic(105.0, 42.0)])
    found = ElasticConstants(Estimate(c, draws, "GPa"), Estimate(np.eye(3), np.stack([np.eye(3)] * 2)), False, False)
    assert found.youngs_modulus.value == pytest.approx(9 * 100 * 40 / 340)
    assert found.poisson_ratio.value == pytest.approx((300 - 80) / 680)
    assert np.allclose(found.shear_modulus.draws, [38, 42])
    assert found.lowest.value == pytest.approx(40)


def test_the_probability_of_stability_counts_draws():
    draws = np.stack([isotropic(100.0, g) for g in (10.0, 5.0, 2.0, -1.0)])
    cell = Estimate(np.eye(3), np.stack([np.eye(3)] * 4))
    found = ElasticConstants(Estimate(draws[0], draws, "GPa"), cell, False, False)
    assert found.stable == 0.75
    wide = ElasticConstants(Estimate(draws[0], draws, "GPa", calibration_factor=3.0), cell, False, False)
    assert wide.stable == 0.5
    unknown = ElasticConstants(Estimate(draws[0], draws, "GPa", calibration_factor=np.nan), cell, False, False)
    assert np.isnan(unknown.stable)


def test_draws_too_far_apart_are_refused(lj):
    members = [LennardJones(epsilon=0.01, sigma=s, rc=3 * s, ro=2 * s, smooth=True) for s in (2.0, 3.4, 3.6)]
    atoms = bulk("Ar", "fcc", a=5.3)
    atoms.calc = BayesianCalculator(committee(members), raw=True)
    with pytest.raises(NotConvergedError, match="have no minimum within"):
        elastic_constants(atoms)


def test_arguments_are_checked(argon, lj):
    argon.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigurationError, match="remove the constraints"):
        elastic_constants(argon)
    argon.set_constraint()
    argon.pbc = False
    with pytest.raises(StructureError, match="periodic in three"):
        elastic_constants(argon)
    with pytest.raises(ConfigurationError, match="clamped='yes'"):
        elastic_constants(argon, clamped="yes")


def test_tables_and_dictionaries(argon):
    found = elastic_constants(argon, clamped=True)
    assert "C11" in found.table()
    assert "C14" not in found.table()
    assert "probability that it is stable: 1" in found.table()
    stored = json.loads(json.dumps(found.to_dict()))
    assert np.array_equal(Estimate.from_dict(stored["tensor"]).draws, found.tensor.draws)
