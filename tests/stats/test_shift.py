"""Conformal quantiles under covariate shift, on the generator whose answer is known:

x ~ N(0, 1) here and N(d, 1) there, errors of scale exp(x / 2), σ of the model exp(x / 4).
"""

from __future__ import annotations

import numpy as np
import pytest

from blipcalc.stats.conformal import conformal_quantile
from blipcalc.stats.shift import density_ratio, effective_size, shifted_quantile, weighted_quantile

N = 5000


def drawn(shift, n, rng):
    x = rng.normal(shift, 1, n)
    return x[:, None], np.abs(rng.normal(size=n)) * np.exp(x / 2) / np.exp(x / 4)


def coverage(shift, weighted, chance):
    found = []
    for key in range(chance.times(6)):
        rng = chance.rng(key)
        here, scores = drawn(0.0, N, rng)
        there, new = drawn(shift, 20_000, rng)
        result = shifted_quantile(scores, here, there[:N], 0.95)
        found.append((new <= (result.quantile if weighted else result.plain)).mean())
    return np.mean(found)


@pytest.mark.chance(2)
@pytest.mark.parametrize(("shift", "plain"), [(0.5, 0.916), (1.0, 0.884)])
def test_weights_restore_the_coverage_that_the_plain_quantile_loses(shift, plain, chance):
    assert coverage(shift, False, chance) == pytest.approx(plain, abs=0.01)
    assert coverage(shift, True, chance) == pytest.approx(0.95, abs=0.015)


@pytest.mark.chance(1)
def test_the_ratio_is_that_of_gaussians(chance):
    rng, n = chance.rng(), chance.times(200_000)
    here, there = rng.normal(0, 1, (n, 1)), rng.normal(0.7, 1, (n, 1))
    at = np.linspace(-2, 2, 9)[:, None]
    assert np.allclose(density_ratio(here, there, at), np.exp(0.7 * at[:, 0] - 0.245), rtol=0.05)


@pytest.mark.chance(1)
@pytest.mark.parametrize(("shift", "expected"), [(0.5, 3891), (1.0, 1879)])
def test_effective_points(shift, expected, chance):
    found = []
    for key in range(chance.times(6)):
        rng = chance.rng(key)
        here, scores = drawn(0.0, N, rng)
        found.append(shifted_quantile(scores, here, drawn(shift, N, rng)[0], 0.95).effective)
    assert np.mean(found) == pytest.approx(expected, rel=0.1)  # exp(-d²) of 5,000, less for heavy tails
    assert effective_size(np.ones(7)) == pytest.approx(7)


@pytest.mark.chance(1)
def test_no_statement_where_few_points_carry_all_of_it(chance):
    rng = chance.rng()
    here, scores = drawn(0.0, N, rng)
    found = shifted_quantile(scores, here, drawn(3.0, N, rng)[0], 0.95)
    assert found.quantile is None
    assert found.effective < 300


def test_equal_weights_are_the_plain_quantile():
    scores = np.random.default_rng(3).exponential(size=99)
    for level in (0.5, 0.9, 0.95):
        assert weighted_quantile(scores, np.ones(99), level, 1.0) == conformal_quantile(scores, level)
    assert weighted_quantile(scores[:5], np.ones(5), 0.95, 1.0) == np.inf


@pytest.mark.chance(2)
def test_without_a_shift_little_is_lost(chance):
    rng = chance.rng()
    here, scores = drawn(0.0, N, rng)
    found = shifted_quantile(scores, here, drawn(0.0, N, rng)[0], 0.95)
    assert found.effective > 0.97 * N
    assert found.quantile == pytest.approx(found.plain, rel=0.08)
