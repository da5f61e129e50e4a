"""BALD against its definition and its limits, and what is chosen by it and by its comparators."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy.stats import norm

from blipcalc.core.prediction import SampleArrays
from blipcalc.errors import ConfigurationError
from blipcalc.learning.acquisition import (
    CRITERIA,
    bald_both,
    bald_energy,
    bald_forces,
    choose,
    farthest_point,
    highest,
    max_variance,
    random,
)
from blipcalc.stats.information import bald, bald_vector, mixture_moments


def gaussians(m=5, shape=(4,), seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(m, *shape, 3, 3))
    return rng.normal(size=(m, *shape, 3)), factors @ factors.swapaxes(-1, -2) + 0.1 * np.eye(3)


@pytest.mark.chance(12)
def test_moments_of_a_mixture(chance):
    means, covariances = gaussians(6, (2,))
    rng, per = chance.rng(), chance.times(100_000)
    factors = np.linalg.cholesky(covariances)
    x = means[:, None] + np.einsum("mnij,msnj->msni", factors, rng.normal(size=(6, per, 2, 3)))
    mean, covariance = mixture_moments(means, covariances)
    for i in range(2):
        np.testing.assert_allclose(mean[i], x[:, :, i].reshape(-1, 3).mean(0), atol=0.03)
        np.testing.assert_allclose(covariance[i], np.cov(x[:, :, i].reshape(-1, 3).T), atol=0.1)


def test_bald_is_zero_for_equal_draws_and_never_negative():
    means, covariances = gaussians()
    assert (bald_vector(means, covariances) > 0).all()
    same = np.broadcast_to(means[0], means.shape), np.broadcast_to(covariances[0], covariances.shape)
    np.testing.assert_allclose(bald_vector(*same), 0.0, atol=1e-12)
    assert bald(np.full(4, 1.5), np.full(4, 0.3)) == pytest.approx(0.0, abs=1e-12)


def test_bald_of_scalars_by_hand_and_as_an_upper_bound_of_the_information():
    mu, v = np.array([-1.0, 1.0]), np.array([0.25, 0.25])
    assert bald(mu, v) == pytest.approx(0.5 * np.log(1.25 / 0.25))
    x = np.linspace(-8, 8, 100_001)
    mixture = 0.5 * (norm.pdf(x, -1, 0.5) + norm.pdf(x, 1, 0.5))
    entropy = -np.trapezoid(mixture * np.log(mixture), x)
    information = entropy - 0.5 * np.log(2 * np.pi * np.e * 0.25)
    assert 0.6 < information < np.log(2) < bald(mu, v)


def test_bald_does_not_depend_on_orientation_or_unit_and_shrinks_under_inflated_noise():
    means, covariances = gaussians()
    r = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    expected = bald_vector(means, covariances)
    np.testing.assert_allclose(bald_vector(means @ r.T, r @ covariances @ r.T), expected)
    np.testing.assert_allclose(bald_vector(23.0 * means, 23.0**2 * covariances), expected)
    # the published weight of 100 on forces inflates the noise of each draw a hundredfold
    alike = np.broadcast_to(covariances[0], covariances.shape)
    assert (bald_vector(means, 100 * alike) < 0.2 * bald_vector(means, alike)).all()


def test_bald_refuses_draws_without_noise():
    means, covariances = gaussians()
    with pytest.raises(ValueError, match="positive definite"):
        bald_vector(means, 0 * covariances)
    with pytest.raises(ValueError, match="shape"):
        bald_vector(means, covariances[..., 0])


def samples(n=6, m=4, seed=0):
    """Structure s disagrees by s in its energy, by n - s in its forces."""
    rng, found = np.random.default_rng(seed), []
    for s in range(n):
        energy = s * np.array([-1.0, 1.0, -1.0, 1.0])
        forces = (n - s) * np.array([-1.0, 1.0, -1.0, 1.0])[:, None, None] * np.ones((m, 3, 3))
        noise = np.broadcast_to(np.eye(3), (m, 3, 3, 3))
        found.append(SampleArrays(energy, forces + 1e-6 * rng.normal(size=forces.shape), None, None, np.ones(m), noise))
    return found


def test_energy_and_forces_choose_what_they_disagree_on():
    s = samples()
    assert highest(bald_energy(s), 3).tolist() == [5, 4, 3]
    assert highest(bald_forces(s), 3).tolist() == [0, 1, 2]
    assert highest(bald_forces(s, pool="max"), 2).tolist() == [0, 1]
    assert highest(max_variance(s), 2).tolist() == [0, 1]
    assert bald_both(s, 5).tolist() == [5, 4, 3, 0, 1]
    assert sorted(bald_both(s, 6).tolist()) == list(range(6))  # no structure twice


def test_ties_keep_their_order():
    assert highest(np.array([1.0, 2.0, 2.0, 1.0]), 3).tolist() == [1, 2, 0]


def test_farthest_points_spread_out():
    line = [Atoms("HH", [[0, 0, 0], [0, 0, d]]) for d in (0.7, 0.71, 0.72, 1.0, 1.5)]
    assert farthest_point(line, [line[0]], 3).tolist() == [4, 3, 2]
    assert farthest_point(line, [], 2).tolist() == [4, 0]
    # the same structure turned and renamed is where it was
    water = molecule("H2O")
    turned = water.copy()
    turned.rotate(40, "x")
    other = water.copy()
    other.positions[1] *= 1.2
    assert farthest_point([turned, other], [water], 1).tolist() == [1]


def test_random_choice_is_a_permutation_by_its_generator():
    a, b = (random(50, 10, np.random.default_rng(3)) for _ in range(2))
    assert a.tolist() == b.tolist()
    assert len(set(a.tolist())) == 10


def test_refusals():
    bare = [SampleArrays(np.zeros(3), np.zeros((3, 2, 3)))]
    with pytest.raises(ConfigurationError, match="nll_jef"):
        bald_energy(bare)
    single = [SampleArrays(np.zeros(1), np.zeros((1, 2, 3)), None, None, np.ones(1), np.ones((1, 2, 3, 3)))]
    with pytest.raises(ConfigurationError, match="two draws"):
        bald_forces(single)
    with pytest.raises(ConfigurationError, match="pool"):
        bald_forces(samples(), pool="median")
    with pytest.raises(ConfigurationError, match="choose 7 of 6"):
        bald_both(samples(), 7)
    with pytest.raises(ConfigurationError, match="composition"):
        farthest_point([molecule("H2O")], [molecule("NH3")], 1)
    with pytest.raises(ConfigurationError, match="molecules"):
        farthest_point([bulk("Cu")], [], 1)


def test_every_criterion_by_its_name():
    s, pool = samples(), [Atoms("HH", [[0, 0, 0], [0, 0, d]]) for d in (0.7, 0.71, 0.72, 1.0, 1.5, 2.0)]
    settings = {"known": pool[:1], "samples": s, "rng": np.random.default_rng(3)}
    found = {name: choose(name, 2, pool, **settings).tolist() for name in CRITERIA}
    luck = found.pop("random")
    assert luck == random(6, 2, np.random.default_rng(3)).tolist()
    assert found == {
        "bald_energy": [5, 4],
        "bald_forces": [0, 1],
        "bald_both": [5, 0],
        "max_variance": [0, 1],
        "farthest_point": [5, 4],
    }
    for name, missing in (("bald_energy", "samples"), ("random", "rng")):
        with pytest.raises(ConfigurationError, match=missing):
            choose(name, 2, pool)
    with pytest.raises(ConfigurationError, match="all 6"):
        choose("max_variance", 2, pool, samples=s[:5])
    with pytest.raises(ConfigurationError, match="'best'; expected one of bald_energy"):
        choose("best", 2, pool, samples=s)
