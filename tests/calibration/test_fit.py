"""The constants of a calibration on residuals with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi

from blipcalc.calibration.checks import MINIMUM_FRAMES
from blipcalc.calibration.fit import fit_calibration
from blipcalc.core.prediction import Calibration, Prediction
from blipcalc.errors import CalibrationError
from blipcalc.stats.conformal import conformal_quantile, coverage_limits

IDENTITY = {"surface": "mean", "n_draws": 16, "seed": 0, "model_hash": "m", "frames_hash": "f"}
SCALE = {1: 4.0, 6: 0.5, 8: 9.0}


def covered_atoms(found, calibration: Calibration, z: int, level: float, rng: np.random.Generator) -> float:
    """Share of frames whose randomly drawn atom of an element is covered."""
    calibrated = found.apply(calibration)
    ratio = np.array(
        [rng.choice(calibrated.ratio[(found.frame == f) & (found.species == z)]) for f in range(found.n_frames)]
    )
    return float((ratio <= calibration.q_atom[z][level]).mean())


@pytest.mark.chance(4)
def test_scale_is_recovered_and_the_z_scores_become_one(residuals, fitted, chance):
    n = chance.times(12_000)
    found = residuals(chance.rng(), n, scale=SCALE, scale_energy=3.0)
    calibration = fitted(found)
    for z, factor in SCALE.items():
        components = 3 * (found.species == z).sum()
        assert calibration.scale[z] == pytest.approx(factor, rel=chance.sigmas * np.sqrt(2 / components))
    assert calibration.scale_energy == pytest.approx(3.0, rel=chance.sigmas * np.sqrt(2 / n))
    after = found.apply(calibration)
    for z in SCALE:
        rows = found.species == z
        assert (after.force_error[rows] ** 2 / after.forces_var[rows]).mean() == pytest.approx(1.0, abs=1e-12)
    assert (after.energy_error**2 / after.energy_var).mean() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.chance(16)
def test_quantiles_of_gaussian_errors_are_those_of_chi(residuals, fitted, chance):
    calibration = fitted(residuals(chance.rng(), chance.times(6000), scale=SCALE))
    for level in (0.68, 0.9, 0.95, 0.99):
        for z in SCALE:
            assert calibration.q_atom[z][level] == pytest.approx(chi.ppf(level, 3), rel=0.05)
        # the largest of nine independent atoms
        assert calibration.q_frame[level] == pytest.approx(chi.ppf(level ** (1 / 9), 3), rel=0.05)


def test_counts_and_identity_are_stored(residuals, fitted):
    calibration = fitted(residuals(np.random.default_rng(2), 100))
    assert (calibration.surface, calibration.n_draws, calibration.seed) == ("mean", 16, 0)
    assert (calibration.model_hash, calibration.frames_hash, calibration.n_frames) == ("m", "f", 100)
    assert calibration.n_atoms == {1: 600, 6: 200, 8: 100}
    assert calibration.n_element_frames == {1: 100, 6: 100, 8: 100}


def test_a_calibration_is_a_function_of_its_frames(residuals, fitted):
    found = residuals(np.random.default_rng(3), 80)
    assert fitted(found) == fitted(found)


@pytest.mark.chance(1)
@pytest.mark.parametrize("level", [0.68, 0.9, 0.95])
def test_fresh_coverage_stays_within_the_beta_binomial_limits(level, residuals, fitted, chance):
    """99 % limits over 100 repeats: one outside is expected."""
    n_calibration, n_test, outside, repeats = 150, 150, 0, chance.times(100)
    low, high = coverage_limits(n_calibration, n_test, level)
    for key in range(repeats):
        rng = chance.rng(key)
        species = (6, 1, 1)
        calibration = fitted(residuals(rng, n_calibration, species, scale=SCALE, frame_sd=0.3))
        test = residuals(rng, n_test, species, scale=SCALE, frame_sd=0.3)
        outside += not low <= covered_atoms(test, calibration, 1, level, rng) <= high
    assert outside <= chance.counts(repeats, 0.01)[1]


@pytest.mark.chance(1)
def test_overconfident_test_data_leave_the_limits(residuals, fitted, chance):
    rng, n = chance.rng(), chance.times(300)
    calibration = fitted(residuals(rng, n, scale=SCALE))
    worse = residuals(rng, n, scale={z: 2.25 * s for z, s in SCALE.items()})  # errors 1.5 times as large
    low, _ = coverage_limits(n, n, 0.95)
    assert covered_atoms(worse, calibration, 1, 0.95, rng) < low


@pytest.mark.chance(4)
def test_a_scale_and_a_quantile_per_element_mend_what_a_pooled_quantile_does_not(residuals, fitted, chance):
    """One atom in ten has a sigma too small by two: the table of uncertainty.md, 2.5."""
    rng, n = chance.rng(), chance.times(1000)
    species, scale = (8, *(1,) * 9), {8: 4.0}
    found, test = (residuals(rng, n, species, scale=scale) for _ in range(2))
    pooled = conformal_quantile(found.ratio, 0.95)
    bad = test.species == 8
    assert (test.ratio[bad] <= pooled).mean() < 0.70
    assert (test.ratio[~bad] <= pooled).mean() > 0.96
    calibration, low_high = fitted(found), coverage_limits(n, n, 0.95, 1 - chance.p)
    for z in (1, 8):
        assert low_high[0] <= covered_atoms(test, calibration, z, 0.95, rng) <= low_high[1]


@pytest.mark.chance(2)
def test_a_heavy_tailed_element_needs_a_quantile_of_its_own(residuals, fitted, chance):
    """The scale alone does not do it: after scaling, Student errors still need another quantile than Gaussian ones."""
    rng, n = chance.rng(), chance.times(800)

    def mixed():
        found = residuals(rng, n, (8, 1, 1))
        heavy = np.where(found.species == 8, 1.0 / np.sqrt(rng.chisquare(3, len(found.species)) / 3), 1.0)
        return replace(found, force_error=found.force_error * heavy[:, None])

    calibration, low_high = fitted(mixed()), coverage_limits(n, n, 0.99, 1 - chance.p)
    assert calibration.q_atom[8][0.99] > 1.1 * calibration.q_atom[1][0.99]
    assert low_high[0] <= covered_atoms(mixed(), calibration, 8, 0.99, rng) <= low_high[1]


@pytest.mark.chance(2)
def test_only_the_frame_quantile_covers_whole_frames(residuals, fitted, chance):
    """Sixty-four atoms, frame log-sd 0.3, 500 frames: 52 % against 96 % in uncertainty.md, 2.4."""
    rng = chance.rng()
    calibration = fitted(residuals(rng, 500, (6,) * 64, frame_sd=0.3))
    test = residuals(rng, 1000, (6,) * 64, frame_sd=0.3).apply(calibration)
    worst = test.ratio.reshape(1000, 64).max(axis=1)
    low, high = coverage_limits(500, 1000, 0.95, 1 - chance.p)
    assert low <= (worst <= calibration.q_frame[0.95]).mean() <= high
    assert (worst <= calibration.q_atom[6][0.95]).mean() < 0.65


@pytest.mark.parametrize("n", [19, 30, 99, 100])
def test_the_frame_quantile_has_its_rank_and_no_other(residuals, fitted, n):
    """The ceil((n + 1) level)-th smallest of the largest ratios of n frames, and none where there are not so many."""
    found = residuals(np.random.default_rng(20 + n), n, scale=SCALE)
    calibration = fitted(found)
    worst = np.sort(found.apply(calibration).ratio.reshape(n, -1).max(axis=1))
    ranks = {level: int(np.ceil(round((n + 1) * level, 9))) for level in (0.68, 0.9, 0.95, 0.99)}
    assert calibration.q_frame == {level: worst[rank - 1] for level, rank in ranks.items() if rank <= n}
    assert np.unique(worst).size == n  # a rank more or less is another number


@pytest.mark.chance(2)
def test_the_halt_rule_bounds_the_error(residuals, fitted, chance):
    """Frames that go on have no error above the tolerance, in at least 95 % of all frames."""
    rng = chance.rng()
    calibration = fitted(residuals(rng, 400, scale=SCALE))
    test, tolerance = residuals(rng, 2000, scale=SCALE).apply(calibration), 0.8
    goes_on = test.atom_std.reshape(2000, -1).max(axis=1) <= calibration.halt_limit(tolerance, 0.95)
    misses = goes_on & (test.force_norm.reshape(2000, -1).max(axis=1) > tolerance)
    assert 0.2 < goes_on.mean() < 0.9
    assert misses.mean() <= 1 - coverage_limits(400, 2000, 0.95, 1 - chance.p)[0]


def test_levels_without_enough_frames_are_absent_and_refused_by_name(residuals, fitted):
    calibration = fitted(residuals(np.random.default_rng(9), 60))
    assert set(calibration.q_frame) == {0.68, 0.9, 0.95}
    assert all(set(q) == {0.68, 0.9, 0.95} for q in calibration.q_atom.values())
    with pytest.raises(CalibrationError, match=r"0\.99.*0\.68, 0\.9, 0\.95"):
        calibration.halt_limit(0.3, 0.99)


@pytest.mark.chance(1)
def test_the_bound_on_a_force_error_is_the_quantile_of_its_element_times_sigma(residuals, fitted, chance):
    """In 95 % of fresh atoms the error stays under it; a point prediction and other levels are refused by name."""
    rng = chance.rng()
    calibration = fitted(residuals(rng, 400, scale=SCALE))
    test = residuals(rng, 2000, scale=SCALE)
    prediction = Prediction(
        species=test.species, energy=0.0, energies=None, forces=np.zeros((len(test.species), 3)), stress=None,
        energy_var=1.0, forces_cov=test.forces_cov, stress_var=None, n_draws=test.n_draws, surface=test.surface,
    )  # fmt: skip
    with pytest.raises(CalibrationError, match="takes a calibrated prediction"):
        prediction.force_bound()
    calibrated = calibration.apply(prediction)
    bound = calibrated.force_bound(0.95)
    of = np.array([calibration.q_atom[z][0.95] for z in test.species])
    np.testing.assert_allclose(bound, of * calibrated.atom_std, rtol=1e-14)
    low, high = coverage_limits(400, 2000, 0.95, 1 - chance.p)
    assert low <= (test.force_norm <= bound).mean() <= high
    with pytest.raises(CalibrationError, match=r"no atom quantile for level 0\.5"):
        calibrated.force_bound(0.5)
    unknown = replace(calibrated, species=np.full_like(test.species, 79))
    assert np.isnan(unknown.force_bound()).all()


def test_a_rare_element_borrows_the_worst_quantile_and_a_very_rare_one_gets_none(residuals, fitted, joined):
    """Oxygen's scores are all sqrt(3), nearly: its own quantile at any level."""
    rng = np.random.default_rng(10)
    rare = residuals(rng, 30, (8, 1))
    exact = np.where(rare.species == 8, rare.atom_std, np.nan)[:, None]
    rare = replace(rare, force_error=np.where(np.isnan(exact), rare.force_error, exact))
    calibration = fitted(joined(residuals(rng, 400, (6, 1)), rare, residuals(rng, MINIMUM_FRAMES - 1, (7, 1))))
    assert set(calibration.scale) == set(calibration.q_atom) == set(calibration.n_atoms) == {1, 6, 8}
    q = calibration.q_atom
    assert q[8][0.68] == pytest.approx(np.sqrt(3))  # takes 8 frames
    assert q[8][0.90] == pytest.approx(np.sqrt(3))  # 29
    assert q[8][0.95] == max(q[1][0.95], q[6][0.95]) > 2.5  # 59
    assert set(calibration.q_frame) == {0.68, 0.9, 0.95, 0.99}  # from the 430 frames without nitrogen


def test_an_element_never_seen_has_no_error_bar(residuals, fitted):
    calibration = fitted(residuals(np.random.default_rng(11), 50, (6, 1)))
    cov = np.tile(np.eye(3), (3, 1, 1))
    raw = Prediction(
        species=np.array([6, 8, 1]),
        energy=0.0,
        energies=None,
        forces=np.zeros((3, 3)),
        stress=None,
        energy_var=1.0,
        forces_cov=cov,
        stress_var=None,
        n_draws=16,
    )
    applied = calibration.apply(raw)
    assert np.isnan(applied.atom_std).tolist() == [False, True, False]
    assert calibration.uncalibrated(raw.species) == ["O"]
    assert applied.raw is raw
    np.testing.assert_array_equal(applied.raw.atom_std, 1.0)


def test_refusals(residuals, fitted):
    rng = np.random.default_rng(12)
    good = residuals(rng, 40)
    with pytest.raises(CalibrationError, match="already"):
        fitted(good.apply(fitted(good)))
    with pytest.raises(CalibrationError, match="K=16 cannot calibrate 'centre'"):
        fit_calibration(good, **IDENTITY | {"surface": "centre"})
    cov = good.forces_cov.copy()
    cov[:12] = 0.0
    with pytest.raises(CalibrationError, match=r"12 of 360 force errors .* frames \[0, 1\]"):
        fitted(replace(good, forces_cov=cov))
    with pytest.raises(CalibrationError, match="energy errors"):
        fitted(replace(good, energy_var=np.full(40, np.nan)))
    with pytest.raises(CalibrationError, match="zero"):
        fitted(replace(good, force_error=np.zeros_like(good.force_error)))
    with pytest.raises(CalibrationError, match=f"at least {MINIMUM_FRAMES} frames, got H in 5, C in 5, O in 5"):
        fitted(residuals(rng, 5))
    with pytest.raises(CalibrationError, match="surface='mean', K=16; the residuals have"):
        replace(good, n_draws=8).apply(fitted(good))
