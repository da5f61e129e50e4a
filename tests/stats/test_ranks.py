"""Rank correlations against their ceilings, and the ROC area against its closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from blipcalc.stats.ranks import auroc, spearman, spearman_ceiling, spearman_within


def test_spearman_known_answers():
    assert spearman([1, 2, 3, 4], [10, 20, 35, 1e9]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(1 - 6 * 4 / (5 * 24))
    rng = np.random.default_rng(0)
    ties = rng.integers(5, size=(2, 200))
    assert spearman(*ties) == pytest.approx(spearmanr(*ties).statistic, rel=1e-12)


@pytest.mark.parametrize(
    ("sigma", "error"),
    [([1.0, 1.0, 1.0], [1, 2, 3]), ([1, 2, 3], [0.0, 0.0, 0.0]), ([1.0], [1.0]), ([1, np.nan], [1, 2])],
)
def test_no_correlation_where_there_is_nothing_to_rank(sigma, error):
    assert np.isnan(spearman(sigma, error))


def test_shapes_must_match():
    with pytest.raises(ValueError, match=r"sigma \(3,\), error \(2,\)"):
        spearman([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="groups"):
        spearman_within([1, 2], [1, 2], [1])
    with pytest.raises(ValueError, match="one-dimensional"):
        spearman(np.ones((2, 3)), np.ones((2, 3)))


@pytest.mark.chance(3)
@pytest.mark.parametrize(
    ("log_sd", "dimension", "expected"),
    [
        (0.1, 3, 0.21),
        (0.25, 3, 0.47),
        (0.5, 3, 0.72),
        (1.0, 3, 0.90),
        (0.1, 1, 0.10),
        (0.25, 1, 0.25),
        (0.5, 1, 0.46),
        (1.0, 1, 0.69),
    ],
)
def test_ceiling_of_a_perfect_model(log_sd, dimension, expected, chance):
    n = chance.times(4000)
    sigma = np.exp(log_sd * norm.ppf((np.arange(n) + 0.5) / n))
    ceiling = spearman_ceiling(sigma, chance.rng(), dimension)
    assert ceiling == pytest.approx(expected, abs=0.03)
    rng = chance.rng(1)
    errors = sigma * np.linalg.norm(rng.standard_normal((n, dimension)), axis=1)
    bound = chance.sigmas / np.sqrt(n)  # of a correlation of ranks that have none
    assert abs(spearman(sigma, errors) - ceiling) < 1.5 * bound
    assert abs(spearman(rng.permutation(sigma), errors)) < bound  # sigmas of other atoms


def test_ceiling_is_reproducible_and_needs_a_spread():
    sigma = np.linspace(1, 2, 50)
    first, again, other = (spearman_ceiling(sigma, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again != other
    assert np.isnan(spearman_ceiling(np.ones(50), np.random.default_rng(0)))
    with pytest.raises(ValueError, match="dimension"):
        spearman_ceiling(sigma, np.random.default_rng(0), dimension=0)


@pytest.mark.chance(1)
def test_within_groups_is_not_fooled_by_an_element_that_is_harder(chance):
    rng, n = chance.rng(), chance.times(1000)
    elements = np.repeat([1, 8], n)
    scale = np.where(elements == 8, 10.0, 1.0)
    sigma = scale * np.exp(0.2 * rng.standard_normal(2 * n))
    error = scale * np.linalg.norm(rng.standard_normal((2 * n, 3)), axis=1)  # knows the element, not the atom
    assert spearman(sigma, error) > 0.7
    assert abs(spearman_within(sigma, error, elements)) < chance.sigmas / np.sqrt(2 * n)


def test_within_groups_weighs_groups_equally_and_skips_the_empty_ones():
    sigma = np.array([1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 7, 7, 7])
    error = np.array([1, 2, 3, 2, 1, 4, 3, 5, 1, 2, 1, 2, 3])
    groups = np.array(["H"] * 3 + ["O"] * 5 + ["S"] * 2 + ["C"] * 3)  # S has two atoms, C one sigma
    assert spearman_within(sigma, error, groups) == pytest.approx((1.0 + 0.8) / 2)
    assert np.isnan(spearman_within(sigma[8:], error[8:], groups[8:]))


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.0])
def test_auroc_of_shifted_gaussians(shift):
    n = 2000
    quantiles = norm.ppf((np.arange(n) + 0.5) / n)
    expected = norm.cdf(shift / np.sqrt(2))
    assert auroc(quantiles, quantiles + shift) == pytest.approx(expected, abs=0.001)
    assert auroc(quantiles + shift, quantiles) == pytest.approx(1 - expected, abs=0.001)


def test_auroc_counts_ties_half():
    assert auroc([1, 2], [2, 3]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert auroc([1, 1], [1, 1, 1]) == 0.5
    assert auroc([0.0, 1.0], [np.inf]) == 1.0


@pytest.mark.chance(1)
@pytest.mark.parametrize(("log_sd", "expected"), [(0.1, 0.69), (0.25, 0.86), (0.5, 0.95), (1.0, 0.98)])
def test_auroc_ceiling_for_the_largest_errors(log_sd, expected, chance):
    rng, n = chance.rng(), chance.times(100_000)
    sigma = np.exp(log_sd * rng.standard_normal(n))
    error = sigma * np.linalg.norm(rng.standard_normal((n, 3)), axis=1)
    large = error > np.quantile(error, 0.95)
    assert auroc(sigma[~large], sigma[large]) == pytest.approx(expected, abs=0.015)


def test_auroc_refuses_empty_sets_and_nan():
    with pytest.raises(ValueError, match="0 outside"):
        auroc([1.0], [])
    with pytest.raises(ValueError, match="1 of 3"):
        auroc([1.0, np.nan], [2.0])
