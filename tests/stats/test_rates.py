"""Rates: textbook limits, and levels whose true rate is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, binom, poisson

from blipcalc.stats.rates import (
    events_at_risk,
    exposure_needed,
    level_for_rate,
    poisson_interval,
    rate_of_level,
    same_rate,
)


def test_limits_of_a_poisson_rate():
    assert poisson_interval(0, 1.0) == pytest.approx((0.0, 3.689), abs=1e-3)
    assert poisson_interval(10, 2.0) == pytest.approx((4.795 / 2, 18.39 / 2), abs=1e-2)
    assert exposure_needed(0.1) == pytest.approx(29.96, abs=0.01)


@pytest.mark.chance(1)
def test_the_interval_covers_the_rate(chance):
    n = chance.times(2000)
    counts = chance.rng().poisson(4.0, size=n)
    limits = [poisson_interval(int(k), 2.0) for k in counts]
    inside = sum(low <= 2.0 <= high for low, high in limits)
    assert inside >= chance.counts(n, 0.95)[0]  # exact limits cover at least what they say


@pytest.mark.chance(1)
def test_equal_rates_are_not_told_apart_and_unequal_ones_are(chance):
    assert same_rate(0, 1.0, 0, 9.0) == 1.0
    assert same_rate(10, 1.0, 30, 3.0) > 0.5
    assert same_rate(30, 1.0, 10, 3.0) < 1e-6
    counts = chance.rng().poisson([5, 15], size=(chance.times(1000), 2))
    p = np.array([same_rate(int(a), 1.0, int(b), 3.0) for a, b in counts])
    assert (p < 0.05).sum() <= chance.counts(len(p), 0.05)[1]


@pytest.mark.chance(4)
def test_a_level_keeps_its_promise(chance):
    """Of 2,000 references of 100 blocks the level for 0.05 per block is passed more often in at most one of twenty."""
    n = chance.times(2000)
    maxima = chance.rng().exponential(size=(n, 100))
    levels = [level_for_rate(m, 1.0, 0.05) for m in maxima]
    true = true_rates(levels)
    assert (true > 0.05).sum() <= chance.counts(n, 0.05)[1]
    assert np.mean(true) == pytest.approx(levels[0].rate, rel=0.06)
    inside = [level.interval[0] <= rate <= level.interval[1] for level, rate in zip(levels, true, strict=True)]
    assert sum(inside) >= chance.counts(n, 0.95)[0]
    # the control: the level that is passed at that rate in the reference itself is passed more often half of the time
    naive = np.exp(-np.quantile(maxima, 0.95, axis=1))
    assert np.mean(naive > 0.05) > 0.4


def true_rates(levels):
    """-ln(1 - p) per block for levels on maxima whose law is exponential: p = exp(-level)."""
    return -np.log1p(-np.exp([-level.value for level in levels]))


@pytest.mark.parametrize(("rank", "n"), [(1, 1), (1, 60), (3, 60), (17, 20), (20, 20)])
def test_expectation_and_quantiles_of_a_rate_are_those_of_its_law(rank, n):
    """Against the integral over p ~ Beta(j, n + 1 - j) of -ln(1 - p), and against quantiles of p."""
    level = level_for_rate(np.arange(n, dtype=float), 0.5, rate_at(rank, n))
    assert level.n_beyond == rank
    exact, _ = quad(lambda p: -np.log1p(-p) * beta.pdf(p, rank, n + 1 - rank), 0, 1, limit=200)
    assert level.rate == pytest.approx(exact / 0.5, rel=1e-6)
    p = beta.ppf([0.025, 0.975, 0.95], rank, n + 1 - rank)
    assert (*level.interval, level.bound) == pytest.approx(-np.log(1 - p) / 0.5, rel=1e-12)


def rate_at(rank, n):
    """A wanted rate, of blocks of 0.5, that just that many of n blocks carry."""
    return -2.0 * np.log1p(-beta.ppf(0.95, rank, n + 1 - rank)) * (1 + 1e-9)


def test_half_a_halt_in_a_block_keeps_its_promise():
    """Where p is not small: expected rate and bound against rates that are known, and what p per block makes of them."""
    runs, n, wanted = 2000, 100, 0.5
    maxima = np.random.default_rng(5).exponential(size=(runs, n))
    levels = [level_for_rate(m, 1.0, wanted) for m in maxima]
    true = true_rates(levels)
    spread = true.std() / np.sqrt(runs)
    assert true.mean() == pytest.approx(levels[0].rate, abs=6 * spread)
    assert binom.sf(np.sum(true > levels[0].bound) - 1, runs, 0.05) > 1e-7
    # the control: the same of the probability, taken for a rate
    rank = int(np.count_nonzero(beta.ppf(0.95, np.arange(1, n + 1), n - np.arange(n)) <= wanted))
    by_probability = np.sort(maxima, axis=1)[:, -rank]
    true = -np.log1p(-np.exp(-by_probability))
    assert true.mean() > rank / (n + 1) + 20 * spread
    assert binom.sf(np.sum(true > wanted) - 1, runs, 0.05) < 1e-100


def test_the_rate_of_a_level_is_an_estimate_without_bias():
    """E(H_n - H_{n - j}) = -ln(1 - p) - Σ_{i > n} p^i / i for binomial j, summed exactly; j / n for a control."""
    n, p = 20, 0.4
    found = [rate_of_level(np.arange(n), 1.0, n - 0.5 - j) for j in range(n + 1)]
    assert [level.n_beyond for level in found] == list(range(n + 1))
    weights = binom.pmf(np.arange(n + 1), n, p)
    i = np.arange(n + 1, 400)
    exact = -np.log(1 - p) - (p**i / i).sum()
    assert weights @ [level.rate for level in found] == pytest.approx(exact, rel=1e-9)
    assert weights @ np.arange(n + 1) / n < 0.8 * exact
    inside = np.array([level.interval[0] <= -np.log(1 - p) <= level.interval[1] for level in found])
    assert weights @ inside >= 0.95
    below = np.array([level.bound < -np.log(1 - p) for level in found])
    assert weights @ below <= 0.05
    assert (found[0].rate, found[0].interval[0], found[-1].bound) == (0.0, 0.0, np.inf)


def test_a_run_that_goes_on_after_an_event():
    """Independent checks: whatever the memory that is left out, events per check at risk are the rate."""
    assert events_at_risk([0, 1, 1, 0, 0, 1, 0], 0) == (3, 7)
    assert events_at_risk([0, 1, 1, 0, 0, 1, 0], 2) == (2, 4)
    assert events_at_risk([1, 0, 0], 9) == (1, 1)
    beyond = np.random.default_rng(6).random(400_000) < 0.05
    for memory in (0, 10, 40):
        events, at_risk = events_at_risk(beyond, memory)
        assert min(poisson.cdf(events, 0.05 * at_risk), poisson.sf(events - 1, 0.05 * at_risk)) > 1e-7
    # the control: the same events over all of the time
    assert poisson.cdf(events, 0.05 * len(beyond)) < 1e-100


def test_the_unit_of_time_is_that_of_the_block():
    maxima = np.random.default_rng(3).exponential(size=1000)
    a, b = level_for_rate(maxima, 0.01, 5.0), level_for_rate(maxima, 10.0, 0.005)
    assert (a.value, a.n_beyond) == (b.value, b.n_beyond)
    assert a.rate == pytest.approx(1000 * b.rate)
    assert a.exposure == pytest.approx(10.0)
    assert a.bound <= 5.0


def test_no_level_where_the_reference_is_too_short():
    maxima = np.random.default_rng(4).exponential(size=58)
    assert level_for_rate(maxima, 1.0, 0.05) is None  # 3.0 / 0.05, 60 blocks, are needed
    assert level_for_rate(np.append(maxima, 0.1), 1.0, 0.05) is None
    assert level_for_rate(np.append(maxima, (0.1, 0.2)), 1.0, 0.05).n_beyond == 1
    for n in (
        3,
        30,
        300,
    ):  # what a reference without an event carries is what it is said to carry, for blocks of any number
        enough = n * 0.5 * 1.0000001
        assert level_for_rate(np.arange(n), 0.5, -np.log(0.05) / enough) is None
        assert level_for_rate(np.arange(n), 0.5, -np.log(0.05) / enough * 1.000001).n_beyond == 1
        assert exposure_needed(-np.log(0.05) / enough) == pytest.approx(enough)


def test_the_rate_of_a_level():
    found = rate_of_level([1.0, 3.0, 2.0, 5.0], 0.5, 2.5)
    assert (found.n_beyond, found.exposure) == (2, 2.0)
    assert found.rate == pytest.approx((1 / 4 + 1 / 3) / 0.5)
    p = beta.ppf([0.025, 0.975], [2, 3], [3, 2])  # Clopper and Pearson
    assert found.interval == pytest.approx(-np.log(1 - p) / 0.5)


@pytest.mark.parametrize("arguments", [([], 1.0, 1.0), ([np.nan], 1.0, 1.0), ([1.0], 0.0, 1.0), ([1.0], 1.0, -1.0)])
def test_senseless_questions_are_refused(arguments):
    with pytest.raises(ValueError):
        level_for_rate(*arguments)
