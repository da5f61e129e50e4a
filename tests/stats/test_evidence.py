"""Evidence against uniform p-values: bets, martingales, detectors, and the confidence sequence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

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


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_values_outside_are_refused(bad):
    with pytest.raises(ValueError):
        BettingSequence().update(bad)
    with pytest.raises(ValueError):
        log_bet(-bad if bad > 0 else bad)
