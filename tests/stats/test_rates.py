"""Rates: textbook limits, and levels whose true rate is known."""

from __future__ import annotations

import numpy as np
import pytest

from blipcalc.stats.rates import (
    exposure_needed,
    level_for_rate,
    poisson_interval,
    rate_of_level,
    rate_upper_limit,
    same_rate,
)


def test_limits_of_a_poisson_rate():
    assert poisson_interval(0, 1.0) == pytest.approx((0.0, 3.689), abs=1e-3)
    assert poisson_interval(10, 2.0) == pytest.approx((4.795 / 2, 18.39 / 2), abs=1e-2)
    assert rate_upper_limit(0, 30.0) == pytest.approx(0.0999, abs=1e-3)
    assert rate_upper_limit(1, 1.0) == pytest.approx(4.744, abs=1e-3)
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
    true = np.exp([-level.value for level in levels])
    assert (true > 0.05).sum() <= chance.counts(n, 0.05)[1]
    assert np.mean(true) == pytest.approx(levels[0].rate, rel=0.06)
    inside = [level.interval[0] <= rate <= level.interval[1] for level, rate in zip(levels, true, strict=True)]
    assert sum(inside) >= chance.counts(n, 0.95)[0]
    # the control: the level that is passed at that rate in the reference itself is passed more often half of the time
    naive = np.exp(-np.quantile(maxima, 0.95, axis=1))
    assert np.mean(naive > 0.05) > 0.4


def test_the_unit_of_time_is_that_of_the_block():
    maxima = np.random.default_rng(3).exponential(size=1000)
    a, b = level_for_rate(maxima, 0.01, 5.0), level_for_rate(maxima, 10.0, 0.005)
    assert (a.value, a.n_beyond) == (b.value, b.n_beyond)
    assert a.rate == pytest.approx(1000 * b.rate)
    assert a.exposure == pytest.approx(10.0)
    assert a.bound <= 5.0


def test_no_level_where_the_reference_is_too_short():
    maxima = np.random.default_rng(4).exponential(size=58)
    assert level_for_rate(maxima, 1.0, 0.05) is None  # 59 blocks are needed
    assert level_for_rate(np.append(maxima, 0.1), 1.0, 0.05).n_beyond == 1


def test_the_rate_of_a_level():
    found = rate_of_level([1.0, 3.0, 2.0, 5.0], 0.5, 2.5)
    assert (found.n_beyond, found.rate, found.exposure) == (2, 1.0, 2.0)
    assert found.interval == pytest.approx(poisson_interval(2, 2.0))


@pytest.mark.parametrize("arguments", [([], 1.0, 1.0), ([np.nan], 1.0, 1.0), ([1.0], 0.0, 1.0), ([1.0], 1.0, -1.0)])
def test_senseless_questions_are_refused(arguments):
    with pytest.raises(ValueError):
        level_for_rate(*arguments)
