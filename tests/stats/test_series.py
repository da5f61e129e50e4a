"""Memory of a series, its blocks and averages, against processes whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from blipcalc.stats.series import autocorrelation, block_maxima, moving_average, statistical_inefficiency


def ar1(n, phi, rng, replicas=1):
    """Stationary, of unit variance; ρ(k) = φ^k, g = (1 + φ) / (1 - φ)."""
    noise = rng.normal(size=(replicas, n)) * np.sqrt(1 - phi**2)
    noise[:, 0] /= np.sqrt(1 - phi**2)
    return list(lfilter([1.0], [1.0, -phi], noise, axis=1))


@pytest.mark.chance(1)
@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.99])
def test_inefficiency_of_an_autoregressive_series(phi, chance):
    n, exact = chance.times(200_000), (1 + phi) / (1 - phi)
    found = statistical_inefficiency(ar1(n, phi, chance.rng(), replicas=4))
    # a sum over m lags has a relative variance of 4 m / N, and ends after some five times the memory, 5 g / 2
    assert found == pytest.approx(exact, rel=chance.sigmas * np.sqrt(10 * exact / (4 * n)))


@pytest.mark.chance(3)
def test_many_short_replicas_say_what_a_long_run_says(chance):
    rng, n = chance.rng(), chance.times(500)
    short = statistical_inefficiency(ar1(400, 0.9, rng, replicas=n))
    assert short == pytest.approx(19.0, rel=0.12)
    mixed = [*ar1(chance.times(20_000), 0.9, rng, replicas=10), *ar1(15, 0.9, rng, replicas=1)]
    assert statistical_inefficiency(mixed) == pytest.approx(19.0, rel=0.12)  # one short one spoils nothing
    # the control: with a mean of its own, a short replica hides its slow part
    alone = np.mean([statistical_inefficiency([r - r.mean()]) for r in ar1(60, 0.9, rng, replicas=n)])
    assert alone < 0.75 * 19.0


@pytest.mark.chance(1)
def test_the_two_speeds_of_the_bench(chance):
    """√0.7 · OU(0.1 ps) + √0.3 · OU(5 ps) at 10 fs: 1 + 2 Σ ρ = 314 checks."""
    rng, n = chance.rng(), chance.times(200_000)
    fast, slow = np.exp(-0.01 / 0.1), np.exp(-0.01 / 5.0)
    exact = 1 + 2 * (0.7 * fast / (1 - fast) + 0.3 * slow / (1 - slow))
    assert exact == pytest.approx(314, abs=1)
    series = [
        np.sqrt(0.7) * a + np.sqrt(0.3) * b for a, b in zip(ar1(n, fast, rng, 10), ar1(n, slow, rng, 10), strict=True)
    ]
    assert statistical_inefficiency(series) == pytest.approx(exact, rel=0.2)


def test_a_constant_series_remembers_everything():
    assert statistical_inefficiency([np.ones(50)]) == np.inf
    # and so does one that is much longer than the replicas are
    assert statistical_inefficiency(ar1(30, 0.999, np.random.default_rng(0), replicas=200)) == np.inf
    assert (autocorrelation([np.ones(5)]) == 1).all()


def test_moving_average_and_maxima_by_hand():
    np.testing.assert_allclose(moving_average([1.0, 2.0, 6.0, 3.0], 2), [1.5, 4.0, 4.5])
    assert moving_average([1.0, 2.0], 3).shape == (0,)
    np.testing.assert_allclose(block_maxima([[1.0, 5.0, 2.0, 3.0, 9.0], [4.0]], 2), [5.0, 3.0])


@pytest.mark.parametrize("bad", [[], [[]], [[1.0, np.nan]], [[[[1.0, 2.0]]]]])
def test_series_that_say_nothing_are_refused(bad):
    with pytest.raises(ValueError):
        autocorrelation(bad)
    with pytest.raises(ValueError):
        moving_average([1.0], 0)
    with pytest.raises(ValueError):
        block_maxima([[1.0]], 0)
