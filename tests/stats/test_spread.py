"""Spreads against exact numbers, and what few samples can promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from blipcalc.stats.spread import atom_variance, covariance, spread


def test_divisor_is_k_minus_one():
    mean, variance = spread([[1.0, 10.0], [2.0, 10.0], [6.0, 13.0]])
    assert mean == pytest.approx([3.0, 11.0])
    assert variance == pytest.approx([7.0, 3.0])  # (4 + 1 + 9) / 2 and (1 + 1 + 4) / 2
    assert np.var([1.0, 2.0, 6.0]) == pytest.approx(14 / 3)  # the other divisor is seen


def test_axis_is_the_one_of_the_samples():
    samples = np.random.default_rng(0).normal(size=(4, 7, 3))
    for axis in (0, 1, 2, -1):
        mean, variance = spread(samples, axis)
        assert mean == pytest.approx(samples.mean(axis=axis), rel=1e-12)
        assert variance == pytest.approx(samples.var(axis=axis, ddof=1), rel=1e-12)


@pytest.mark.chance(1)
def test_unbiased_on_average(chance):
    n = chance.times(200_000)
    samples = chance.rng().normal(scale=2.0, size=(4, n))
    # variance of a variance of four: 2 / 3 of its square
    assert spread(samples)[1].mean() == pytest.approx(4.0, rel=chance.sigmas * np.sqrt(2 / 3 / n))


def test_large_offset_costs_no_digits():
    deviations = np.array([0.0, 1.0, 3.0, 4.0]) * 2.0**-20  # exact in binary
    mean, variance = spread(deviations - 2.0**20)
    assert variance == pytest.approx(10 / 3 * 2.0**-40, rel=1e-14)
    assert mean + 2.0**20 == pytest.approx(2.0 * 2.0**-20, rel=1e-6)
    one_pass = np.mean((deviations - 2.0**20) ** 2) - np.mean(deviations - 2.0**20) ** 2
    assert abs(one_pass / (2.5 * 2.0**-40) - 1) > 0.5  # the textbook formula has lost everything


def test_equal_draws_have_no_spread():
    assert spread(np.full(16, -1234567.1))[1] == 0.0
    assert not covariance(np.full((16, 5, 3), 0.1)).any()


def test_single_precision_is_raised_before_anything_is_computed():
    samples = (1000 + np.random.default_rng(2).normal(size=(16, 50))).astype(np.float32)
    mean, variance = spread(samples)
    assert mean.dtype == variance.dtype == np.float64
    assert variance == pytest.approx(samples.astype(np.float64).var(axis=0, ddof=1), rel=1e-12)


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_has_no_spread(count):
    with pytest.raises(ValueError, match=f"K={count}"):
        spread(np.zeros((count, 4)))
    with pytest.raises(ValueError, match=f"K={count}"):
        covariance(np.zeros((count, 4, 3)))


def test_covariance_known_answer_and_rotation():
    samples = np.random.default_rng(3).normal(size=(8, 5, 3)) * [1.0, 0.5, 0.1]
    found = covariance(samples)
    assert found[2] == pytest.approx(np.cov(samples[:, 2], rowvar=False), rel=1e-12, abs=1e-15)
    assert np.array_equal(found, found.swapaxes(1, 2))
    assert np.diagonal(found, axis1=1, axis2=2) == pytest.approx(spread(samples)[1], rel=1e-13)
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    turned = covariance(samples @ rotation.T)
    assert turned == pytest.approx(rotation @ found @ rotation.T, abs=1e-14)
    assert atom_variance(turned) == pytest.approx(atom_variance(found), rel=1e-12)
    largest = [np.diagonal(one, axis1=1, axis2=2).max(axis=1) for one in (found, turned)]
    assert np.abs(largest[1] / largest[0] - 1).max() > 0.1  # the largest component does depend on the axes


def test_atom_variance_is_a_third_of_the_trace():
    assert atom_variance([np.diag([1.0, 4.0, 7.0])]) == pytest.approx([4.0])


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (2, 3, 2)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        atom_variance(np.zeros(shape))
    if len(shape) != 3:
        with pytest.raises(ValueError, match="shape"):
            covariance(np.zeros(shape))


@pytest.mark.chance(2)
@pytest.mark.parametrize(("count", "documented"), [(4, 0.859), (8, 0.914), (16, 0.936)])
def test_coverage_of_two_standard_deviations(count, documented, chance):
    n = chance.times(200_000)
    rng = chance.rng()
    _, variance = spread(rng.standard_normal((count, n)))
    x = np.abs(rng.standard_normal(n))
    exact = 2 * t.cdf(2.0, count - 1) - 1
    low, high = chance.counts(n, exact)
    assert low <= (x < 2 * np.sqrt(variance)).sum() <= high
    assert exact == pytest.approx(documented, abs=0.002)
    assert (x < 2 * np.sqrt(variance * (count - 1) / count)).sum() < low  # divisor K is told apart
