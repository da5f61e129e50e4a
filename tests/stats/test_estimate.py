"""Derived quantities: differences draw by draw, intervals that hold as often as they say."""

import json

import numpy as np
import pytest
from scipy.stats import betabinom

from blipcalc.errors import CalibrationError, ConfigurationError, DrawsError
from blipcalc.files.json_file import json_text
from blipcalc.stats.conformal import coverage_law
from blipcalc.stats.estimate import Estimate, conformal_factor, with_error


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_shared_error_cancels_in_a_difference_and_would_not_in_quadrature(rng):
    shared, own = rng.normal(size=(16,)), 0.01 * rng.normal(size=(16,))
    a, b = Estimate(1.0, 1 + shared, "eV"), Estimate(3.0, 3 + shared + own, "eV")
    difference = b - a
    assert difference.value == pytest.approx(2.0)
    assert difference.std == pytest.approx(own.std(ddof=1), rel=1e-12)
    assert np.hypot(a.std, b.std) > 50 * difference.std


def test_a_linear_function_has_the_exact_spread_and_no_bias(rng):
    draws = rng.normal(size=(12, 3))
    estimate = Estimate(draws.mean(axis=0), draws, "Å", calibration_factor=1.5)
    total = estimate.map(lambda x: x.sum())
    assert total.std == pytest.approx(1.5 * draws.sum(axis=1).std(ddof=1))
    assert abs(total.bias) < 1e-12
    assert (2 * total).std == pytest.approx(2 * total.std)
    assert estimate[1].std == pytest.approx(estimate.std[1])


@pytest.mark.chance(1)
def test_a_curved_function_shows_its_bias(chance):
    n = chance.times(20_000)
    x = chance.rng().normal(0.0, 0.1, n)
    square = Estimate(0.0, x).map(np.square)
    assert square.bias == pytest.approx(0.01, rel=chance.sigmas * np.sqrt(2 / n))


@pytest.mark.chance(1)
@pytest.mark.parametrize("n_draws", [2, 4, 16])
@pytest.mark.parametrize("level", [0.68, 0.95])
def test_intervals_of_few_gaussian_draws_hold_the_truth_as_often_as_they_say(chance, n_draws, level):
    n, rng = chance.times(4000), chance.rng()
    truth, draws = rng.normal(size=n), rng.normal(size=(n_draws, n))
    held = Estimate(draws.mean(axis=0), draws).holds(truth, level).sum()
    low, high = chance.counts(n, level)
    assert low <= held <= high


@pytest.mark.chance(1)
def test_control_a_normal_quantile_would_be_too_short(chance):
    n, rng = chance.times(4000), chance.rng()
    truth, draws = rng.normal(size=n), rng.normal(size=(4, n))
    held = (np.abs(truth - draws.mean(axis=0)) <= 1.96 * draws.std(axis=0, ddof=1)).sum()
    assert held < chance.counts(n, 0.95)[0]


@pytest.mark.chance(2)
def test_an_interval_of_the_quantity_itself_takes_twenty_labels(chance):
    """Error bars three times too small: a factor from labels makes up for it, on values that it has not seen."""
    rng, n = chance.rng(), chance.times(500)  # for the factor; the others try it
    truth = rng.normal(size=4 * n)
    estimates = [Estimate(0.0, d) for d in rng.normal(size=(4 * n, 8)) / 3]
    factor = conformal_factor(estimates[:n], truth[:n], 0.9)
    held = sum(
        low <= t <= high for (low, high), t in zip((e.bounds(factor) for e in estimates[n:]), truth[n:], strict=True)
    )
    low, high = betabinom(3 * n, *coverage_law(n, 0.9)).ppf([chance.p / 2, 1 - chance.p / 2])
    assert low <= held <= high
    assert sum(e.holds(t, 0.9) for e, t in zip(estimates[n:], truth[n:], strict=True)) < 0.7 * 3 * n  # control
    with pytest.raises(CalibrationError, match="uncalibrated: 19"):
        conformal_factor(estimates[:19], truth[:19])


def test_quantities_with_widenings_of_their_own_combine_widened(rng):
    draws = rng.normal(size=(16, 2))
    a, b = (
        Estimate(1.0, 1 + draws[:, 0], "eV", calibration_factor=2.0),
        Estimate(4.0, 4 + draws[:, 1], "eV", calibration_factor=0.5),
    )
    assert (a - b).std == pytest.approx((2 * draws[:, 0] - 0.5 * draws[:, 1]).std(ddof=1))
    assert (a - b).value == pytest.approx(-3.0)
    assert (5.0 - a).value == pytest.approx(4.0)
    assert (5.0 - a).std == pytest.approx(a.std)
    ratio = b / b
    assert (float(ratio.value), ratio.unit, float(ratio.std)) == (1.0, "", pytest.approx(0.0, abs=1e-12))
    named = Estimate(1.0, draws[:, 0], note="O-H") - Estimate(2.0, draws[:, 1], note="C-H")
    assert named.note == "O-H - C-H"
    unknown = Estimate(1.0, draws[:, 0], "eV", calibration_factor=float("nan"))
    assert np.isnan((unknown - b).std)


def test_what_cannot_be_combined_is_refused():
    a = Estimate(0.0, [1.0, 2.0], "eV")
    with pytest.raises(DrawsError, match="expected the same unit"):
        a - Estimate(0.0, [1.0, 2.0], "Å")
    with pytest.raises(DrawsError, match="the same unit, K and draws"):
        Estimate(0.0, [1.0, 2.0], "eV", source="seed 0") - Estimate(0.0, [1.0, 2.0], "eV", source="seed 1")
    with pytest.raises(DrawsError, match="two draws"):
        Estimate(0.0, [1.0])
    with pytest.raises(DrawsError, match="shape"):
        Estimate([0.0, 1.0], [[1.0], [2.0]])
    with pytest.raises(ConfigurationError, match="level"):
        a.interval(1.0)


def test_what_a_file_leaves_out_or_has_no_number_for():
    stored = {"value": 1.0, "draws": [1.0, 2.0], "unit": "eV"}
    assert Estimate.from_dict(stored).calibration_factor == 1.0
    assert np.isnan(Estimate.from_dict(stored | {"widening": None}).std)
    total = Estimate(
        1.0, [1.0, 2.0], "eV", calibration_factor=0.5, of_differences=float("nan")
    )  # an element that was never calibrated
    again = Estimate.from_dict(json.loads(json_text(total.to_dict())))
    assert again.std == total.std
    assert np.isnan((again - again).std)


def test_it_goes_through_json_and_prints_two_digits_of_the_error():
    estimate = Estimate(1.09544, [1.0951, 1.0957, 1.0955], "Å", calibration_factor=1.2, calibrated=True, note="O-H")
    again = Estimate.from_dict(estimate.to_dict())
    assert (str(again), again.note, again.calibrated) == (str(estimate), "O-H", True)
    assert str(estimate) == "1.09544 ± 0.00037 Å"
    assert with_error(12.0, 34.0) == "12 ± 34"
    assert with_error(1.0, 0.0) == "1 ± 0"
    assert with_error(1.6, 2.2e-16) == "1.6 ± 2.2e-16"  # rounding is no digit
