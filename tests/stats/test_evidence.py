"""Evidence against uniform p-values: bets, martingales, detectors, and the confidence sequence."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, kstest

from blipcalc.stats.evidence import BettingSequence, Cusum, Martingale, ShiryaevRoberts, conformal_p, log_bet


@pytest.mark.parametrize("p", [1e-12, 1e-3, 0.2, 0.9, 0.9999, 0.99999, 1.0])
def test_the_bet_is_its_integral(p):
    exact, _ = quad(lambda e: e * p ** (e - 1), 0, 1)
    assert np.exp(log_bet(p)) == pytest.approx(exact, rel=1e-6)


def test_a_bet_is_fair():
    """Over u = -ln p the mean is ∫ (1 - e^-u - u e^-u) / u² du, of which 1 / u lies behind u."""
    far = 600.0
    mean, _ = quad(lambda u: np.exp(log_bet(np.exp(-u)) - u), 0, far, limit=500)
    assert mean == pytest.approx(1 - 1 / far, abs=1e-6)


@pytest.mark.chance(4)
def test_p_values_of_exchangeable_values_are_uniform(chance):
    rng, n = chance.rng(), chance.times(4000)
    p = np.concatenate([conformal_p(x[50:], x[:50], rng) for x in rng.normal(size=(n, 51))])
    for level in (0.05, 0.25, 0.5, 0.95):
        low, high = chance.counts(n, level)
        assert low <= (p <= level).sum() <= high
    assert (conformal_p(np.full(9, 99.0), np.zeros(99), rng) <= 0.01).all()
    assert p.min() > 0


class Uniform:
    """A generator that always draws the same."""

    def __init__(self, value):
        self.value = value

    def random(self, shape):
        return np.full(shape, self.value)


TIED = {
    "all the same": np.zeros(12),
    "two values": np.array([0, 0, 0, 1, 1, 1, 1, 1]),
    "few values": np.array([3, 1, 1, 2, 2, 2, 5, 3, 0, 2]),
    "no two the same": np.arange(7.0),
    "one infinite": np.array([1, 1, np.inf, np.inf, 0]),
}


@pytest.mark.parametrize("values", TIED.values(), ids=TIED)
def test_p_values_of_tied_data_are_uniform_exactly(values):
    """Each value in turn among the others as references: P(p ≤ a) = a for all a, U being uniform."""
    turns = [(values[i : i + 1], np.delete(values, i)) for i in range(len(values))]
    # p is linear in U, from its infimum to its maximum
    low, middle, high = (
        np.array([conformal_p(x, others, Uniform(1 - u))[0] for x, others in turns]) for u in (1e-15, 0.5, 1.0)
    )
    np.testing.assert_allclose(middle, (low + high) / 2, atol=1e-12)

    def law(a, low, high):
        return np.clip((a - low) / (high - low), 0.0, 1.0).mean()

    levels = np.linspace(0, 1, 41)
    np.testing.assert_allclose([law(a, low, high) for a in levels], levels, atol=1e-12)
    # the control: a value ranks above all that are equal to it
    n = len(values)
    above = np.array([(values > x).sum() / n for x in values])
    worst = max(law(a, above, above + 1 / n) - a for a in levels)
    assert worst > 0.1 if len(set(values)) < n else worst < 1e-12


def test_p_values_of_rounded_numbers_pass_a_test_of_uniformity():
    rng = np.random.default_rng(11)
    rows = np.round(3 * rng.random((3000, 41)))
    p = np.concatenate([conformal_p(row[:1], row[1:], rng) for row in rows])
    assert kstest(p, "uniform").pvalue > 1e-7
    old = [((row[1:] > row[0]).sum() + 1 - rng.random()) / 41 for row in rows]
    assert kstest(old, "uniform").pvalue < 1e-50


@pytest.mark.chance(1)
def test_a_martingale_rarely_gets_far(chance):
    """Ville: of fair bets at most one run in A ever reaches A."""
    rng, n = chance.rng(), chance.times(4000)
    rule, reached = Martingale(20.0), np.zeros(n, dtype=bool)
    for _ in range(300):
        reached |= rule.update(log_bet(1 - rng.random(n)))
    assert reached.sum() <= chance.counts(n, 0.05)[1]
    shifted = Martingale(20.0)
    assert any(shifted.update(log_bet(0.01 * (1 - rng.random()))) for _ in range(10))


@pytest.mark.chance(1)
def test_the_detector_waits_as_long_as_it_says(chance):
    rng, n = chance.rng(), chance.times(400)
    rule, first = ShiryaevRoberts(100.0), np.full(n, np.inf)
    for t in range(1, 4000):
        first = np.where((first == np.inf) & rule.update(log_bet(1 - rng.random(n))), t, first)
    waited = np.minimum(first, 4000)
    assert waited.mean() + chance.sigmas * waited.std() / np.sqrt(n) >= 100.0
    alert = ShiryaevRoberts(100.0)
    assert any(alert.update(log_bet(0.01 * (1 - rng.random()))) for _ in range(10))
    assert not ShiryaevRoberts(100.0).update(-1.0)


def test_evidence_stays_finite_and_not_a_number_alarms():
    rule = ShiryaevRoberts(10.0)
    for _ in range(100):
        rule.update(30.0)
    assert np.isfinite(rule.log_evidence)
    for made in (ShiryaevRoberts(10.0), Martingale(10.0), Cusum()):
        assert made.update(float("nan"))


def test_cusum_by_hand():
    rule = Cusum(slack=0.5, threshold=2.0)
    assert [bool(rule.update(z)) for z in (1.0, -3.0, 1.5, 1.5, 1.0)] == [False, False, False, False, True]


@pytest.mark.chance(3)
def test_an_interval_that_holds_at_every_time(chance):
    """Coverage over all times at once, and the control: an interval for one time, looked at again and again, misses."""
    rng, mean, n, runs = chance.rng(), 0.9, 300, chance.times(150)
    values = (rng.random((runs, n)) < mean).astype(float)
    left, left_plain = 0, 0
    for row in values:
        sequence, ok, plain = BettingSequence(resolution=201), True, True
        for t, x in enumerate(row, start=1):
            sequence.update(x)
            low, high = sequence.interval
            ok &= low <= mean <= high
            seen = row[:t].mean()
            half = 1.96 * np.sqrt(max(seen * (1 - seen), 1e-3) / t)
            plain &= t < 10 or abs(seen - mean) <= half
        left, left_plain = left + (not ok), left_plain + (not plain)
    assert left <= chance.counts(runs, 0.05)[1]
    assert left_plain > chance.counts(runs, 0.05)[1]
    low, high = sequence.interval
    assert high - low < 0.25


def test_a_bet_is_made_before_its_value_is_seen():
    """Of all sequences of zeros and ones, weighed as a coin of mean m makes them, the capitals at m are 1 on average."""
    n, outcomes = 7, []
    for row in product((0.0, 1.0), repeat=n):
        sequence = BettingSequence(resolution=21)
        for x in row:
            sequence.update(x)
        mean, up, down = sequence.log_capitals
        ones = sum(row)
        weight = mean**ones * (1 - mean) ** (n - ones)
        outcomes.append((weight * np.exp(up), weight * np.exp(down)))
    np.testing.assert_allclose(np.sum(outcomes, axis=0), 1.0, rtol=1e-9)


def test_what_is_won_is_linear_in_a_value():
    """A bet on x_t that knew x_t would not be."""
    before = np.random.default_rng(12).random(20)

    def capitals(x):
        sequence = BettingSequence(resolution=21)
        for value in (*before, x):
            sequence.update(value)
        return np.exp(sequence.log_capitals[1:])

    np.testing.assert_allclose(capitals(0.25), 0.75 * capitals(0.0) + 0.25 * capitals(1.0), rtol=1e-9)


@pytest.mark.parametrize("x", [2 / 3, 0.0, 1.0, 0.5, 0.987])
@pytest.mark.parametrize("resolution", [5, 101])
def test_an_interval_narrower_than_the_grid_is_not_empty(x, resolution):
    sequence, step = BettingSequence(resolution=resolution), 1 / (resolution - 1)
    for _ in range(3000):
        sequence.update(x)
        low, high = sequence.interval
        assert low <= x <= high
    assert high - low <= 2 * step + 1e-12


def test_a_constant_of_two_thirds_for_longer_than_the_grid_resolves():
    sequence = BettingSequence()
    for _ in range(9000):
        sequence.update(2 / 3)
    low, high = sequence.interval
    assert 0.665 < low < 2 / 3 < high < 0.668


@pytest.mark.parametrize("mean", [2 / 3, 0.951, 0.05])
def test_coverage_does_not_depend_on_where_the_grid_lies(mean):
    """A grid of 11 points, none of them the mean: missed at any of 300 times in at most one run in twenty."""
    rng, runs, missed = np.random.default_rng(13), 60, 0
    for row in rng.random((runs, 300)) < mean:
        sequence = BettingSequence(resolution=11)
        for x in row:
            sequence.update(float(x))
        low, high = sequence.interval  # ends never go back
        missed += not (low <= mean <= high)
    assert binom.sf(missed - 1, runs, 0.05) > 1e-7


def test_limits_are_two_statements_where_the_mean_changes():
    sequence, highs = BettingSequence(), []
    for x in np.repeat([0.99, 0.96], 1500):
        sequence.update(x)
        highs.append(sequence.interval[1])
    low, high = sequence.interval
    assert (low > high, 0.96 <= high < 0.99) == (True, True)  # neither forgets what it was sure of
    assert min(highs) >= 0.96
    assert np.isfinite([low, high]).all()


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_values_outside_are_refused(bad):
    with pytest.raises(ValueError):
        BettingSequence().update(bad)
    with pytest.raises(ValueError):
        log_bet(-bad if bad > 0 else bad)
