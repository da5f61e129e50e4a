"""The second opinion on a structure: where the data were, asked without any variance."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.core.domain import closest_distances, fit_domain
from blipcalc.core.predictor_contract import Need
from blipcalc.errors import ConfigurationError, DataError
from blipcalc.io import read, write
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import load, save_model
from blipcalc.models.build import build_model
from blipcalc.monitor.decisions import Reading
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.monitor.run_criteria import LatentDistanceThreshold
from blipcalc.posteriors.blip import BlipPosterior, bayesianize
from blipcalc.predictor import BayesianPredictor
from blipcalc.stats.ellipsoid import fit_ellipsoid


class TestEllipsoid:
    @pytest.mark.chance(2)
    def test_mean_square_is_one_and_the_law_is_chi_squared(self, chance):
        rng, n = chance.rng(), chance.times(20_000)
        # well-conditioned, so that shrinkage does nothing; scales from 0.01 to 10
        mixing = (np.eye(8) + 0.2 * rng.normal(size=(8, 8))) * np.logspace(-2, 1, 8)
        fitted = fit_ellipsoid(rng.normal(size=(n, 8)) @ mixing + 5)
        fresh = fitted.distance(rng.normal(size=(n, 8)) @ mixing + 5) ** 2 * 8
        # scatter of 20,000 points over 60 seeds: 0.5 and 1.3 %
        assert fresh.mean() == pytest.approx(8, rel=0.02)
        assert fresh.var() == pytest.approx(16, rel=0.06)

    @pytest.mark.chance(1)
    def test_it_is_the_exact_distance_for_many_points(self, chance):
        rng = chance.rng()
        covariance = np.array([[4.0, 1.0], [1.0, 0.5]])
        points = rng.multivariate_normal([1, 2], covariance, chance.times(400_000))
        d = np.array([3.0, -1.0])
        expected = np.sqrt(d @ np.linalg.solve(covariance, d) / 2)
        assert fit_ellipsoid(points).distance(np.array([[4.0, 1.0]]))[0] == pytest.approx(expected, rel=0.01)

    @pytest.mark.parametrize("n", [8, 30])
    def test_few_points_are_shrunk_and_never_singular(self, n):
        rng = np.random.default_rng(2)
        points = rng.normal(size=(n, 30))
        points[:, 0] = 3.0  # a feature that does not vary
        distance = fit_ellipsoid(points).distance(
            rng.normal(size=(500, 30)) * (np.arange(30) > 0) + 3.0 * np.eye(30)[0]
        )
        assert np.isfinite(distance).all()
        assert 0.3 < np.sqrt((distance**2).mean()) < 3  # without shrinkage: infinite

    def test_scale_and_shift_of_features_do_not_matter(self):
        rng = np.random.default_rng(3)
        points, other = rng.normal(size=(100, 4)), rng.normal(size=(10, 4))
        scale, shift = np.array([1e-6, 1.0, 1e3, 5.0]), np.array([1.0, -2.0, 3.0, 0.0])
        assert np.allclose(
            fit_ellipsoid(points).distance(other), fit_ellipsoid(points * scale + shift).distance(other * scale + shift)
        )


def rattled(n, seed=0, amplitude=0.05):
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = molecule("CH3CH2OH")
        atoms.positions += rng.normal(0, amplitude, atoms.positions.shape)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = bayesianize(build_model("painn", {"features": 8, "interactions": 2}, [1, 6, 8]))
    found = Model(network, BlipPosterior(network.slot_shapes()))
    return replace(found, domain=fit_domain(network, rattled(60)))


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_distances_tell_what_was_never_seen(model):
    predictor = BayesianPredictor.load(model, n_draws=2)
    inside = np.array([d.max() for d in predictor.latent_distances(rattled(40, seed=1))])
    stretched = molecule("CH3CH2OH")
    stretched.positions[8] += [0.0, 0.0, 0.6]
    squeezed, foreign = rattled(20, seed=2, amplitude=0.3), molecule("CH3COOH")
    outside = [d.max() for d in predictor.latent_distances([stretched, foreign, *squeezed])]
    assert min(outside) > inside.max()
    # the control: the same atoms
    assert np.sqrt(np.mean(np.concatenate(predictor.latent_distances(rattled(40, seed=3))) ** 2)) < 2


def test_it_is_the_same_in_every_orientation_order_and_batch(model):
    predictor = BayesianPredictor.load(model, n_draws=2)
    atoms = rattled(1, seed=4)[0]
    (before,) = predictor.latent_distances([atoms])
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3))
    turned.translate([5, 5, 5])
    order = np.random.default_rng(0).permutation(len(atoms))
    after = predictor.latent_distances([molecule("H2O"), turned[order]])
    assert len(after[0]) == 3
    assert np.allclose(after[1], before[order], rtol=1e-9)


def test_elements_without_data_have_no_distance(model):
    network = build_model("painn", {"features": 8, "interactions": 2}, [1, 6, 7, 8])
    domain = fit_domain(network, rattled(20))
    assert set(domain.ellipsoids) == {1, 6, 8}
    found = domain.distance(np.array([1, 7]), np.zeros((2, 8)))
    assert np.isfinite(found[0])
    assert np.isnan(found[1])
    with pytest.raises(DataError, match="two atoms"):
        fit_domain(network, [Atoms("OC", positions=[[0, 0, 0], [0, 0, 1.1]])])


def test_a_model_file_keeps_it_and_its_hash_stays(model, tmp_path):
    save_model(model, tmp_path / "a.blip")
    loaded = load(tmp_path / "a.blip")
    assert loaded.hash == model.hash == replace(model, domain=None).hash
    assert loaded.domain.hash == model.domain.hash
    assert loaded.domain.closest == model.domain.closest
    frames = rattled(5, seed=5)
    for old, new in zip(*(BayesianPredictor.load(m).latent_distances(frames) for m in (model, loaded)), strict=True):
        assert np.allclose(old, new, rtol=1e-5)
    save_model(loaded, tmp_path / "b.blip")
    assert load(tmp_path / "b.blip").domain.hash == model.domain.hash
    assert load(_saved(replace(model, domain=None), tmp_path)).domain is None


def _saved(model, folder):
    save_model(model, folder / "none.blip")
    return folder / "none.blip"


def test_closest_distances_have_a_known_answer():
    frames = [Atoms("OHH", positions=[[0, 0, 0], [x, 0, 0], [-2 * x, 0, 0]]) for x in np.linspace(0.9, 1.1, 201)]
    found = closest_distances(frames)
    assert found == {"H-H": pytest.approx(2.7003, abs=1e-5), "H-O": pytest.approx(0.9002, abs=1e-5)}


@pytest.mark.usefixtures("quiet")
class TestCalculator:
    def test_it_costs_no_further_draws(self, model, monkeypatch):
        calc = BayesianCalculator(model, n_draws=2)
        atoms = rattled(1)[0]
        atoms.calc = calc
        calls = []
        monkeypatch.setattr(
            calc.predictor, "_evaluator", lambda *a, _e=calc.predictor._evaluator, **k: calls.append(1) or _e(*a, **k)
        )
        std = calc.get_property("atom_std", atoms)
        n = len(calls)
        distance = calc.get_property("latent_distance", atoms)
        assert len(calls) == n
        assert np.array_equal(calc.get_property("atom_std", atoms), std)
        assert len(calls) == n
        assert np.array_equal(distance, calc.predictor.latent_distances([atoms])[0])
        atoms.positions[0, 0] += 0.1
        assert not np.array_equal(calc.get_property("latent_distance", atoms), distance)

    def test_files_keep_it(self, model, tmp_path):
        atoms = rattled(1)[0]
        atoms.calc = BayesianCalculator(model, n_draws=2)
        distance = atoms.calc.get_property("latent_distance", atoms)
        for suffix, exact in ((".traj", 0), (".xyz", 1e-7), (".db", 0)):
            write(tmp_path / f"a{suffix}", atoms)
            back = read(tmp_path / f"a{suffix}", -1)
            assert np.allclose(back.calc.get_property("latent_distance", back), distance, rtol=0, atol=exact)

    def test_without_a_domain_there_is_no_such_key(self, model):
        calc = BayesianCalculator(replace(model, domain=None), n_draws=2)
        assert "latent_distance" not in calc.implemented_properties
        with pytest.raises(ConfigurationError, match="blipcalc domain"):
            calc.predictor.latent_distances(rattled(1))


def reading(distance, mask=None):
    n = 2 if distance is None else len(distance)
    distance = None if distance is None else np.array(distance)
    chosen = np.ones(n, dtype=bool) if mask is None else np.array(mask)
    return Reading(7, ("C",) * n, np.zeros(n), 0.0, chosen, "", distance)


class TestOutside:
    def test_it_halts_beyond_its_limit_and_where_nothing_is_known(self):
        rule = LatentDistanceThreshold(3.0)
        assert not rule(reading([1.0, 3.0])).breached
        decision = rule(reading([4.0, 5.0, 1.0]))
        assert decision.breached
        assert decision.atoms == (1, 0)
        assert rule(reading([1.0, np.nan])).breached
        assert rule(reading(None)).breached
        assert not rule(reading([1.0, 9.0], [True, False])).breached

    @pytest.mark.usefixtures("quiet")
    def test_it_sees_what_a_dead_variance_does_not(self, model):
        """σ is frozen at a constant: no rule on it halts, the distance does."""
        atoms = molecule("CH3CH2OH")
        atoms.calc = BayesianCalculator(model, n_draws=2)

        class Dead(BayesianPredictor):
            def __call__(self, structures, need=Need()):
                found = super().__call__(structures, need)
                dead = [1e-6 * np.tile(np.eye(3), (len(p.species), 1, 1)) for p in found]
                return [replace(p, forces_cov=d) for p, d in zip(found, dead, strict=True)]

        atoms.calc.predictor.__class__ = Dead
        halted = {}
        for name, criteria in (("blind", ()), ("distance", (LatentDistanceThreshold(3.0),))):
            moving = atoms.copy()
            moving.calc = atoms.calc
            momenta = np.zeros((9, 3))
            momenta[8, 2] = 4.0  # a hydrogen leaves
            moving.set_momenta(momenta)
            dynamics = VelocityVerlet(moving, 0.2 * units.fs)
            monitor = UncertaintyMonitor(dynamics, threshold=1.0, criteria=criteria, every=5, fault_checks=())
            dynamics.run(300)
            halted[name] = monitor.status
        assert halted == {"blind": "finished", "distance": "halted"}
