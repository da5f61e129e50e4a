"""Averages with their errors: known answers, coverage of the sampling error, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from scipy.signal import lfilter

from blipcalc.averages.reweighted_average import Series, independent_frames, thermal_average
from blipcalc.errors import ConfigurationError, SamplingError
from blipcalc.stats.series import blocks, jackknife

KT = 300.0 * units.kB


def ou(n, phi, rng, width=1):
    """(n, width) stationary series of unit variance; g = (1 + φ) / (1 - φ)."""
    noise = rng.normal(size=(n, width)) * np.sqrt(1 - phi**2)
    noise[0] /= np.sqrt(1 - phi**2)
    return lfilter([1.0], [1.0, -phi], noise, axis=0)


def oscillator(n, deltas, phi=0.0, rng=None):
    """⟨x²⟩ of ½ x², and of ½ (1 + δ) x²."""
    x = np.sqrt(KT) * ou(n, phi, rng or np.random.default_rng(0))
    return Series((x[:, 0] ** 2,), (0.5 * x**2 * np.asarray(deltas),))


DELTAS = np.array([-0.1, -0.03, 0.04, 0.12])


@pytest.mark.chance(4)
@pytest.mark.parametrize("method", ["reweight", "cea", "auto"])
def test_a_correlated_oscillator(method, chance):
    """x² of φ = 0.9 forgets as φ² does: g = 1.81 / 0.19; the model error is known far better than the value."""
    n = chance.times(40_000)
    found = thermal_average(oscillator(n, DELTAS, 0.9, chance.rng()), 300.0, method)
    expected = KT * (1 - DELTAS if method == "cea" else 1 / (1 + DELTAS))
    assert found.inefficiency == pytest.approx(1.81 / 0.19, rel=0.25)
    error = KT * np.sqrt(2 * (1.81 / 0.19) / n)
    assert abs(found.value - KT) < chance.sigmas * error
    assert found.sampling_error == pytest.approx(error, rel=0.3)
    spread_out = found.draws - found.draws.mean()
    assert np.abs(spread_out - (expected - expected.mean())).max() < 1.5 * chance.sigmas * found.noise
    assert found.noise < 0.5 * found.sampling_error
    assert found.noise < 0.1 * found.draws.std(ddof=1)
    assert found.method == ("cea" if method == "cea" else "reweight")


@pytest.mark.chance(2)
def test_sampling_errors_are_as_large_as_they_say(chance):
    """200 runs of a series of known memory; without blocks, frame by frame, they would be three times too small."""
    rng, phi, n, runs = chance.rng(), 0.8, 3000, chance.times(200)
    zs, naive = [], []
    for _ in range(runs):
        x = ou(n, phi, rng)
        found = thermal_average(Series((x[:, 0],), (0.01 * x * [1.0, -1.0],)), 300.0)
        zs.append(found.value / found.sampling_error)
        naive.append(found.value / (x.std() / np.sqrt(n)))
    # the errors are estimates themselves: some 6 % too small
    assert np.std(zs) == pytest.approx(1.06, abs=0.03 + 1.06 * chance.sigmas / np.sqrt(2 * runs))
    assert np.std(naive) > 1.06 * (1 + 2 * chance.sigmas / np.sqrt(2 * runs))


def test_blocks_of_replicas_and_their_jackknife():
    parts = blocks([10, 3, 7], 4)
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12], list(range(13, 20))]
    values = np.random.default_rng(2).normal(size=(1000, 2))
    parts = blocks([1000], 100)
    means = np.array([values[part].mean(axis=0) for part in parts])
    found = jackknife(lambda rows: values[rows].mean(axis=0), parts)
    np.testing.assert_allclose(found, means.std(axis=0, ddof=1) / np.sqrt(10), rtol=1e-12)
    with pytest.raises(ValueError, match="two blocks"):
        jackknife(len, parts[:1])


@pytest.mark.chance(2)
def test_noise_is_told_from_a_model_error(chance):
    """An observable that no draw moves has a model error that is all noise; one that they move has not."""
    rng, n = chance.rng(), chance.times(4000)
    x, y = ou(n, 0.5, rng), ou(n, 0.5, rng)
    h = KT * x * np.linspace(-0.5, 0.5, 6)
    apart = thermal_average(Series((y[:, 0],), (h,)), 300.0, "cea")
    # all draws move with one number: the covariance of x and y
    assert apart.draws.std(ddof=1) < 1.5 * chance.sigmas * apart.noise
    moved = thermal_average(Series((x[:, 0],), (h,)), 300.0, "cea")
    assert moved.draws.std(ddof=1) > 10 * moved.noise


def test_direct_weights_are_refused_where_few_frames_carry_them():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2000, 1))
    h = np.hstack([0.1 * x, 2.0 * x])
    series = Series((x[:, 0],), (KT * h,))
    with pytest.raises(
        SamplingError, match=r"N_eff = [\d.]+ for draw 1, of \d+ independent frames.*100.*cea.*independent_runs"
    ):
        thermal_average(series, 300.0, "reweight")
    found = thermal_average(series, 300.0)  # linear: the expansion is exact
    assert found.method == "cea"
    assert found.n_eff[1] < 100 < found.n_eff[0]
    np.testing.assert_allclose(found.draws, [-0.1, -2.0], atol=0.2)
    # the control: the same frames, correlated, are too few where independent ones were enough
    assert thermal_average(Series((x[:, 0],), (KT * x * [0.3, -0.1],)), 300.0, "reweight").method == "reweight"
    slow = ou(2000, 0.95, rng)
    with pytest.raises(SamplingError, match="N_eff"):
        thermal_average(Series((slow[:, 0],), (KT * slow * [0.3, -0.1],)), 300.0, "reweight")


def test_an_expansion_that_does_not_settle_is_refused():
    """Stiffness off by a factor: second order above the first."""
    with pytest.raises(SamplingError, match="does not settle"):
        thermal_average(oscillator(4000, [1.5, -2.5]), 300.0, "cea")


def test_too_few_independent_frames():
    rng = np.random.default_rng(5)
    with pytest.raises(SamplingError, match="an average with an error takes 20"):
        thermal_average(Series((ou(500, 0.98, rng)[:, 0],), (np.zeros((500, 2)),)), 300.0)
    drift = np.linspace(0, 1, 400)
    with pytest.raises(SamplingError, match="Run longer"):
        thermal_average(Series((drift,), (np.zeros((400, 2)),)), 300.0)
    with pytest.raises(ConfigurationError, match="expected one of 'auto'"):
        thermal_average(oscillator(100, DELTAS), 300.0, "mbar")


def test_what_never_changes_has_no_memory():
    constant = Series((np.ones((100, 3)),), (np.zeros((100, 4)),))
    found = thermal_average(constant, 300.0)
    assert found.inefficiency == 1.0
    np.testing.assert_allclose(found.draws, np.ones((4, 3)), rtol=1e-14)
    assert not found.sampling_error.any()


@pytest.mark.chance(2)
def test_vectors_weigh_by_their_variance(chance):
    """A fast loud component beside a slow quiet one; the energies of the draws count too, where they are slower."""
    rng, n = chance.rng(), chance.times(20_000)
    loud, slow = ou(n, 0.0, rng), ou(n, 0.9, rng)
    g, _ = independent_frames((np.hstack([loud, 0.1 * slow]),))
    assert g == pytest.approx(1 + 0.01 * 18, abs=0.3)
    g, _ = independent_frames((loud,), (slow,))
    assert g == pytest.approx(19.0, rel=0.3)
