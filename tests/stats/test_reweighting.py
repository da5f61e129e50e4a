"""Weights to other surfaces, where both averages are known."""

from __future__ import annotations

import numpy as np
import pytest

from blipcalc.stats.reweighting import averages, effective_fraction, next_weights, weights

KT = 0.0259


def harmonic(delta, n=200_000, seed=0):
    """Frames of ½ x² at kT, and h of ½ (1 + δ) x²: (T, 1) both."""
    x = np.random.default_rng(seed).normal(0, np.sqrt(KT), (n, 1))
    return x, 0.5 * delta * x**2 / KT


@pytest.mark.chance(5)
@pytest.mark.parametrize(("delta", "fraction"), [(0.02, 1.000), (0.1, 0.996), (0.3, 0.973)])
def test_the_harmonic_table(delta, fraction, chance):
    """Direct weights are exact; the expansion gives kT (1 - δ), its next term kT δ²; one does not pass for the other."""
    x, h = harmonic(delta, chance.times(200_000), chance.seed())
    error = chance.sigmas * KT * np.sqrt(2 / len(x))  # of ⟨x²⟩
    (direct,), (cea,) = (averages(x**2, weights(h, method)) for method in ("reweight", "cea"))
    # what the expansion adds to ⟨x²⟩ has a scatter of its own
    assert direct == pytest.approx(KT / (1 + delta), abs=error)
    assert cea == pytest.approx(KT * (1 - delta), abs=error * (1 + 4 * delta))
    assert averages(x**2, next_weights(h))[0] == pytest.approx(KT * delta**2, abs=4 * error * delta)
    assert effective_fraction(h)[0] == pytest.approx(fraction, abs=1e-3)
    assert effective_fraction(h)[0] == pytest.approx(np.sqrt(1 + 2 * delta) / (1 + delta), abs=2e-3)
    if delta == 0.3:
        assert abs(cea - KT / (1 + delta)) > 2 * error


@pytest.mark.chance(3)
@pytest.mark.parametrize(("modes", "sd", "fraction"), [(10, 0.11, 0.989), (100, 0.35, 0.892), (1000, 1.13, 0.284)])
def test_many_modes_of_five_per_cent(modes, sd, fraction, chance):
    """The mean over many draws of the stiffness, as the table has one of them."""
    rng, draws = chance.rng(), chance.times(40)
    h = 0.5 * np.square(rng.normal(size=(8000, modes))) @ (0.05 * rng.normal(size=(modes, draws)))
    # the variance of h is a sum over modes for each draw, of scatter √(2 / modes)
    assert np.mean(h.var(axis=0)) == pytest.approx(sd**2, rel=0.02 + chance.sigmas * np.sqrt(2 / modes / draws))
    found = effective_fraction(h)
    assert np.median(found) == pytest.approx(fraction, rel=0.15)
    # weights of a spread above one are carried by few of the 8,000 frames
    np.testing.assert_allclose(found, np.exp(-h.var(axis=0)), rtol=0.6 if modes == 1000 else 0.05)


@pytest.mark.chance(2)
def test_a_shifted_well_by_the_expansion_is_exact(chance):
    """E_k - E = -c x: ⟨x⟩_k = c / k to any order, and the next term is noise."""
    x = chance.rng().normal(0, np.sqrt(KT), (chance.times(200_000), 1))
    c = np.array([0.01, 0.1])
    h = -c * x / KT
    error = chance.sigmas * np.sqrt(KT / len(x)) * (1 + 2 * h.std(axis=0))
    assert (np.abs(averages(x, weights(h, "cea")) - c) < error).all()
    assert (np.abs(averages(x, next_weights(h))) < error).all()


def test_constants_cancel_and_own_values_are_taken():
    rng = np.random.default_rng(3)
    h, own = rng.normal(size=(50, 3)), rng.normal(size=(50, 3, 2))
    for method in ("reweight", "cea"):
        w = weights(h, method)
        np.testing.assert_allclose(w.sum(axis=0), 1.0)
        np.testing.assert_allclose(w, weights(h + np.array([5.0, -900.0, 3.0]), method), atol=1e-12)
        expected = np.array([[(w[:, k] * own[:, k, j]).sum() for j in range(2)] for k in range(3)])
        np.testing.assert_allclose(averages(own, w), expected)
        np.testing.assert_allclose(averages(own[:, :1], w)[2], w[:, 2] @ own[:, 0])
