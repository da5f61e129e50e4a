"""Scores against closed forms, integrals and published null values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from blipcalc.stats.fits import variance_scale
from blipcalc.stats.scores import (
    crps_gaussian,
    crps_samples,
    ece_cdf,
    ence,
    ence_null,
    mae,
    miscalibration_area,
    nll,
    rmse,
    zms,
)

PAIRS = [nll, crps_gaussian, zms, ence, miscalibration_area, ece_cdf]


def heteroscedastic(n: int, seed: int, log_sd: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Errors of a perfect model with log-normal sigmas, and its variances."""
    rng = np.random.default_rng(seed)
    sigma = np.exp(log_sd * rng.standard_normal(n))
    return sigma * rng.standard_normal(n), sigma**2


def test_plain_errors():
    assert mae([[3.0, -4.0], [0.0, 1.0]]) == pytest.approx(2.0)
    assert rmse([[3.0, -4.0], [0.0, 1.0]]) == pytest.approx(np.sqrt(6.5))


def test_nll_is_that_of_the_normal_law():
    error, variance = np.array([[0.3, -2.0], [1.0, 0.0]]), np.array([[0.5, 1.5], [4.0, 0.01]])
    assert nll(error, variance) == pytest.approx(-norm.logpdf(error, scale=np.sqrt(variance)).mean(), rel=1e-13)


@pytest.mark.parametrize(("error", "sigma"), [(0.0, 1.0), (0.7, 0.5), (-2.5, 1.3), (4.0, 0.2)])
def test_crps_of_a_gaussian_against_the_integral(error, sigma):
    left = quad(lambda x: norm.cdf(x, scale=sigma) ** 2, -12 * sigma - 5, error, epsabs=1e-11, limit=200)[0]
    right = quad(lambda x: norm.sf(x, scale=sigma) ** 2, error, 12 * sigma + 5, epsabs=1e-11, limit=200)[0]
    assert crps_gaussian([error], [sigma**2]) == pytest.approx(left + right, abs=1e-8)


def test_crps_of_samples_by_hand():
    # |x - y| = 1, 0, 3 -> 4/3;  pairs 1, 4, 3 -> 8 / (3 * 2)
    assert crps_samples([0.0, 1.0, 4.0], 1.0) == pytest.approx(4 / 3 - 8 / 6)
    assert crps_samples([[0.0, 5.0], [2.0, 5.0]], [1.0, 7.0]) == pytest.approx(((1 - 1) + 2) / 2)


@pytest.mark.chance(2)
def test_crps_of_samples_tends_to_that_of_their_gaussian_and_is_fair(chance):
    rng, n = chance.rng(), chance.times(5000)
    reference = rng.normal(scale=1.5, size=40)
    target = crps_gaussian(reference, np.ones(40))
    assert crps_samples(rng.standard_normal((4 * n, 40)), reference) == pytest.approx(target, abs=0.005)
    few = rng.standard_normal((4, 40, n))
    fair = crps_samples(few, np.repeat(reference[:, None], n, axis=1))
    assert fair == pytest.approx(target, abs=0.01)  # unbiased at K = 4
    gap = np.abs(few[:2] - few[2:]).mean() / 2
    unfair = fair + gap / 4  # divisor K^2 instead of K (K - 1)
    assert unfair - target > 0.1


@pytest.mark.chance(8)
def test_proper_scores_prefer_the_truth(chance):
    error, variance = heteroscedastic(chance.times(50_000), chance.seed())
    for score in (nll, crps_gaussian):
        truth = score(error, variance)
        assert all(score(error, variance * factor) > truth for factor in (0.5, 0.8, 1.25, 2.0))
        assert score(error, np.full_like(variance, rmse(error) ** 2)) > truth  # right on average only


@pytest.mark.chance(2)
def test_zms_and_the_scale_that_makes_it_one(chance):
    n = chance.times(100_000)
    error, variance = heteroscedastic(n, chance.seed())
    bound = chance.sigmas * np.sqrt(2 / n)
    assert zms(error, variance) == pytest.approx(1.0, abs=bound)
    assert zms(error, variance / 4) == pytest.approx(4 * zms(error, variance), rel=1e-12)  # overconfident: flagged
    scale = variance_scale(error, variance / 4)
    assert scale == pytest.approx(4.0, rel=bound)
    assert zms(error, variance / 4 * scale) == pytest.approx(1.0, rel=1e-12)
    assert scale == pytest.approx(np.mean(4 * error**2 / variance), rel=1e-12)


def test_scale_is_the_maximum_of_the_likelihood():
    error, variance = heteroscedastic(2000, 3)
    scale = variance_scale(error, variance)
    assert all(nll(error, variance * scale * factor) > nll(error, variance * scale) for factor in (0.98, 1.02))


@pytest.mark.parametrize("error", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_scale_of_nothing_is_refused(error):
    with pytest.raises(ValueError, match="z-score"):
        variance_scale(error, [1.0, 1.0])


@pytest.mark.chance(2)
@pytest.mark.parametrize(("bins", "null"), [(10, 0.057), (100, 0.178)])
def test_ence_of_a_perfect_model_is_its_null(bins, null, chance):
    assert ence_null(1000, bins) == pytest.approx(null, rel=0.02)
    found = [ence(*heteroscedastic(1000, chance.seed(key)), bins) for key in range(chance.times(200))]
    assert np.mean(found) == pytest.approx(null, rel=0.2)
    error, variance = heteroscedastic(1000, chance.seed(10_000))
    assert ence(error, variance / 4, bins) > 0.8  # RMSE / RMV - 1 = 1
    assert ence(error, np.full_like(variance, rmse(error) ** 2), 1) == pytest.approx(0.0, abs=1e-12)


def test_ence_by_hand():
    # two bins by variance: RMSE 1 against 1, RMSE 2 against 4
    assert ence([2.0, 1.0, -2.0, -1.0], [16.0, 1.0, 16.0, 1.0], bins=2) == pytest.approx((0 + 0.5) / 2)


def test_ence_does_not_depend_on_the_order_of_points_of_one_sigma():
    """Sorted by their error, they would fill bins of their own; the first bins are those of one sigma."""
    error, variance = heteroscedastic(1000, 8)
    variance[:400] = np.sort(variance)[399]
    order = np.lexsort((np.abs(error), variance))
    shuffled = np.random.default_rng(9).permutation(1000)
    assert ence(error[order], variance[order]) == pytest.approx(ence(error[shuffled], variance[shuffled]), rel=1e-12)
    # of one sigma alone, all bins are alike, whatever their number
    sorted_errors, one = np.sort(np.abs(error)), np.full(1000, 4.0)
    for bins in (1, 7, 50):
        assert ence(sorted_errors, one, bins) == pytest.approx(abs(rmse(error) - 2) / 2, rel=1e-12)
    # the control: bins in the order of the points
    parts = [rmse(part) for part in np.array_split(sorted_errors, 50)]
    assert np.abs(np.array(parts) - 2).mean() / 2 != pytest.approx(abs(rmse(error) - 2) / 2, rel=0.1)


@pytest.mark.chance(1)
def test_ence_sees_a_sigma_that_is_right_only_on_average(chance):
    error, variance = heteroscedastic(10_000, chance.seed())
    shuffled = chance.rng(1).permutation(variance)
    assert ence(error, shuffled) > 5 * ence_null(10_000)


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_miscalibration_area_closed_form(factor):
    # one-sided curve of N(0, 1) errors told to have sd 1/factor: |1/4 - arcsin(1 / sqrt(1 + factor^2)) / pi|
    error = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    expected = abs(0.25 - np.arcsin(1 / np.hypot(1.0, factor)) / np.pi)
    variance = np.full_like(error, factor**-2)
    assert miscalibration_area(error, variance) == pytest.approx(expected, abs=1e-4)
    assert ece_cdf(error, variance) == pytest.approx(
        0.99 * expected, rel=0.015
    )  # 99 steps, 100 points, zero at both ends


def test_miscalibration_area_is_the_integral():
    values = norm.ppf([0.2, 0.9])
    # F = 0 to 0.2, 1/2 to 0.9, 1 beyond
    expected = 0.2**2 / 2 + (0.3**2 + 0.4**2) / 2 + 0.1**2 / 2
    assert miscalibration_area(values, [1.0, 1.0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.chance(4)
def test_calibration_curves_pass_the_truth_and_flag_overconfidence(chance):
    error, variance = heteroscedastic(chance.times(5000), chance.seed())
    for score in (miscalibration_area, ece_cdf):
        assert score(error, variance) < 0.025
        assert score(error, variance / 4) > 0.08


def test_ece_cdf_known_answers():
    assert ece_cdf([0.0], [1.0]) == pytest.approx(
        50 * (49 / 2) / 99 * 2 / 100
    )  # a step at 1/2: |F - p| = 0..49 / 99, twice
    one_sided = ece_cdf(np.full(10, 50.0), np.ones(10))
    assert one_sided == pytest.approx((99 * 98 / 2) / 99 / 100)  # F = 0 up to p = 1, where it is 1


@pytest.mark.parametrize("score", PAIRS)
@pytest.mark.parametrize("variance", [[1.0, 0.0], [1.0, -1.0], [1.0, np.nan], [1.0, np.inf]])
def test_unusable_variances_are_refused(score, variance):
    with pytest.raises(ValueError, match="1 of 2"):
        score([0.1, 0.2], variance)


@pytest.mark.parametrize("score", PAIRS)
def test_shapes_must_match(score):
    with pytest.raises(ValueError, match="shape"):
        score(np.zeros((4, 3)), np.ones(4))
    with pytest.raises(ValueError, match="at least one"):
        score([], [])


def test_crps_of_samples_refuses_what_it_cannot_score():
    with pytest.raises(ValueError, match="K=1"):
        crps_samples([[1.0]], [1.0])
    with pytest.raises(ValueError, match="shape"):
        crps_samples(np.zeros((4, 3)), np.zeros(4))


def test_more_bins_than_points_are_refused():
    for call in (lambda: ence([1.0], [1.0], 2), lambda: ence_null(1, 2)):
        with pytest.raises(ValueError, match="bins=2"):
            call()
