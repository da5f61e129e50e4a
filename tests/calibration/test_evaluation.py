"""Evaluations of residuals with known answers, and of whole predictors."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from blipcalc.calibration.coverage import atom_coverage, energy_coverage, frame_coverage
from blipcalc.calibration.evaluation import evaluate, evaluate_residuals
from blipcalc.core.prediction import Prediction
from blipcalc.core.predictor_contract import Predictor
from blipcalc.errors import DataError, MissingLabelsError
from blipcalc.stats.conformal import coverage_limits

LEVELS = (0.68, 0.9, 0.95, 0.99)


def row(coverage, kind, group, level):
    return next(c for c in coverage if (c.kind, c.group, c.level) == (kind, group, level))


@pytest.fixture(scope="module")
def calibrated(residuals, fitted, seeds):
    """A calibration and fresh residuals of the same law under it."""
    rng = seeds.rng()
    calibration = fitted(residuals(rng, 500, scale={1: 4.0, 8: 0.25}))
    return residuals(rng, 400, scale={1: 4.0, 8: 0.25}).apply(calibration)


@pytest.fixture(scope="module")
def evaluation(calibrated):
    return evaluate_residuals(calibrated, seed=1)


def test_honest_error_bars_pass_everywhere(evaluation):
    assert len(evaluation.forces.coverage) == 4 * (1 + 3 + 1)  # all, three elements, one formula
    assert all(c.inside for c in evaluation.forces.coverage + evaluation.energy.coverage + evaluation.frames)
    low, high = evaluation.forces.zms_interval
    assert low < 1 < high
    assert evaluation.forces.zms == pytest.approx(1.0, abs=0.1)
    assert evaluation.forces.spearman_ratio == pytest.approx(1.0, abs=0.05)
    assert evaluation.energy.spearman_ratio == pytest.approx(1.0, abs=0.25)
    assert evaluation.frames[2].level == 0.95
    assert (evaluation.n_calibration, evaluation.n_frames, evaluation.n_atoms) == (500, 400, 3600)
    assert evaluation.n_uncalibrated == evaluation.forces.n_left_out == evaluation.energy.n_left_out == 0
    assert 2000 < evaluation.n_effective < 6000  # atoms are independent here


def test_accuracies_are_those_of_the_arrays(calibrated, evaluation):
    assert evaluation.forces.mae == pytest.approx(np.abs(calibrated.force_error).mean())
    assert evaluation.forces.rmse == pytest.approx(np.sqrt((calibrated.force_error**2).mean()))
    assert evaluation.energy_mae_per_atom == pytest.approx(evaluation.energy.mae / 9)
    assert evaluation.energy_rmse_per_atom == pytest.approx(evaluation.energy.rmse / 9)
    away = calibrated.energy_error - calibrated.energy_error.mean()
    assert evaluation.energy_mae_shifted == pytest.approx(np.abs(away).mean())
    assert evaluation.energy_rmse_shifted == pytest.approx(calibrated.energy_error.std())
    (composition,) = evaluation.compositions
    assert (composition.formula, composition.n_frames) == ("C2H6O", 400)
    assert composition.forces_mae == pytest.approx(evaluation.forces.mae)
    assert (calibrated.force_norm > evaluation.tolerance).mean() == pytest.approx(0.05, abs=1e-3)
    assert evaluation.auroc_error > 0.8


def test_overconfidence_is_seen_in_every_figure(calibrated, evaluation):
    worse = evaluate_residuals(
        replace(calibrated, force_error=2 * calibrated.force_error, energy_error=2 * calibrated.energy_error)
    )
    for coverage in (worse.forces.coverage, worse.energy.coverage, worse.frames):
        assert not any(c.inside for c in coverage if c.kind == "all" and c.level < 0.99)
    assert worse.forces.zms == pytest.approx(4 * evaluation.forces.zms)
    assert worse.forces.zms_interval[0] > 1
    assert worse.forces.nll > evaluation.forces.nll
    assert worse.forces.crps > evaluation.forces.crps
    assert worse.forces.spearman == pytest.approx(evaluation.forces.spearman)  # ranks do not see a factor


def test_limits_are_those_of_frames(evaluation):
    found = row(evaluation.forces.coverage, "all", "all", 0.95)
    assert (found.low, found.high) == coverage_limits(500, 400, 0.95)
    assert found.n_frames == 400


def test_coverage_weighs_each_frame_and_element_once(calibrated):
    """The average over many random draws of one atom per frame and element."""
    rng, found = np.random.default_rng(2), row(atom_coverage(calibrated, [0.9]), "all", "all", 0.9).observed
    q = np.array([calibrated.calibration.q_atom[int(z)][0.9] for z in calibrated.species])
    covered = calibrated.ratio <= q
    means = []
    for z in (1, 6, 8):
        rows = covered[calibrated.species == z].reshape(400, -1)
        means.append(np.mean([rng.permuted(rows, axis=1)[:, 0].mean() for _ in range(200)]))
    assert found == pytest.approx(np.mean(means), abs=0.002)


def test_a_frame_of_many_atoms_weighs_no_more_than_one_of_few(residuals, joined):
    one, three = (residuals(np.random.default_rng(n), 1, (6,) * n) for n in (1, 3))
    found = joined(replace(one, force_error=0.0 * one.force_error), replace(three, force_error=three.force_error + 9.0))
    assert row(atom_coverage(found, [0.9]), "all", "all", 0.9).observed == pytest.approx(0.5)


def test_compositions_are_counted_apart(residuals, fitted, joined):
    rng = np.random.default_rng(3)
    calibration = fitted(residuals(rng, 300, (6, 1)))
    good, bad = residuals(rng, 200, (6, 1)), residuals(rng, 200, (6, 1, 1, 1, 1), scale={1: 9.0, 6: 9.0})
    coverage = atom_coverage(joined(good, bad).apply(calibration), [0.95])
    assert row(coverage, "composition", "CH", 0.95).inside
    assert not row(coverage, "composition", "CH4", 0.95).inside
    assert row(coverage, "composition", "CH4", 0.95).n_frames == 200


def test_borrowed_quantiles_may_cover_too_much(residuals, fitted):
    """Below 299 frames the quantile at 0.99 is the worst of all elements: only too little coverage is a fault."""
    rng = np.random.default_rng(4)
    found = residuals(rng, 200).apply(fitted(residuals(rng, 150)))
    assert row(atom_coverage(found, [0.99]), "element", "H", 0.99).high == 1.0
    assert row(atom_coverage(found, [0.95]), "element", "H", 0.95).high < 1.0


def test_without_a_calibration_the_radii_are_gaussian_and_there_are_no_limits(residuals):
    found = evaluate_residuals(residuals(np.random.default_rng(5), 800, scale_energy=1.0))
    for coverage in (found.forces.coverage, found.energy.coverage):
        for entry in coverage:
            assert entry.inside is None
            assert entry.observed == pytest.approx(entry.level, abs=0.06)
    assert (found.frames, found.n_calibration) == ((), None)


def test_energy_intervals_are_gaussian(residuals):
    found = residuals(np.random.default_rng(6), 300, scale_energy=1.0)
    expected = (np.abs(found.energy_error) <= norm.ppf(0.975) * np.sqrt(found.energy_var)).mean()
    assert row(energy_coverage(found, [0.95]), "all", "all", 0.95).observed == expected


def test_uncalibrated_elements_are_left_out_and_counted(residuals, fitted, joined):
    rng = np.random.default_rng(7)
    calibration = fitted(residuals(rng, 300, (6, 1)))
    test = joined(residuals(rng, 100, (6, 1)), residuals(rng, 40, (8, 1))).apply(calibration)
    found = evaluate_residuals(test)
    assert found.n_uncalibrated == found.forces.n_left_out == 40
    assert {c.group for c in found.forces.coverage if c.kind == "element"} == {"C", "H"}
    assert found.frames[0].n_frames == 100
    for value in (found.forces.zms, found.forces.nll, found.forces.spearman, found.auroc_error, found.n_effective):
        assert np.isfinite(value)


def test_a_point_prediction_has_errors_and_nothing_else(residuals):
    raw = residuals(np.random.default_rng(8), 20)
    point = replace(raw, forces_cov=np.full_like(raw.forces_cov, np.nan), energy_var=np.full(20, np.nan), n_draws=1)
    found = evaluate_residuals(point)
    assert found.forces.mae == pytest.approx(np.abs(raw.force_error).mean())
    assert found.forces.coverage == found.energy.coverage == ()
    for value in (
        found.forces.zms,
        found.forces.crps,
        found.energy.nll,
        found.auroc_error,
        found.forces.spearman_ratio,
    ):
        assert np.isnan(value)
    assert found.forces.n_left_out == len(raw.species)
    assert found.n_uncalibrated == 0  # there is nothing that a calibration could scale
    assert evaluate_residuals(point, foreign=point).foreign.n_left_out == 0


def test_errors_without_a_spread_are_not_covered(residuals):
    raw = residuals(np.random.default_rng(9), 50, (6,))
    cov = raw.forces_cov.copy()
    cov[:10] = 0.0
    found = evaluate_residuals(replace(raw, forces_cov=cov))
    assert found.forces.n_left_out == 10
    assert row(found.forces.coverage, "all", "all", 0.99).observed <= 0.8


def test_foreign_structures_stand_out(residuals, fitted, joined):
    rng = np.random.default_rng(10)
    calibration = fitted(residuals(rng, 300))
    test = residuals(rng, 200).apply(calibration)
    outside = residuals(rng, 100, scale={1: 4.0, 6: 4.0, 8: 4.0})
    outside = replace(outside, forces_cov=25 * outside.forces_cov, force_error=5 * outside.force_error)
    unknown = residuals(rng, 7, (7, 1))
    found = evaluate_residuals(test, foreign=joined(outside, unknown).apply(calibration)).foreign
    assert found.auroc > 0.95
    assert found.forces_zms == pytest.approx(4.0, rel=0.15)
    assert found.forces_zms_interval[0] < found.forces_zms < found.forces_zms_interval[1]
    assert (found.n_frames, found.n_labelled, found.n_left_out) == (107, 107, 7)
    nothing = replace(outside, force_error=np.full_like(outside.force_error, np.nan), energy_error=np.full(100, np.nan))
    blind = evaluate_residuals(test, foreign=nothing.apply(calibration)).foreign
    assert blind.auroc == pytest.approx(found.auroc)
    assert (blind.n_labelled, np.isnan(blind.forces_zms), np.isnan(blind.forces_mae)) == (0, True, True)


def test_frame_coverage_skips_levels_without_a_quantile(residuals, fitted):
    rng = np.random.default_rng(11)
    found = residuals(rng, 100).apply(fitted(residuals(rng, 50)))
    assert [c.level for c in frame_coverage(found, LEVELS)] == [0.68, 0.9, 0.95]


def test_figures_are_deterministic_and_plain_json(calibrated, evaluation):
    again = evaluate_residuals(calibrated, seed=1)
    assert again == evaluation
    stored = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert stored["forces"]["coverage"][0]["inside"] is True
    assert stored["n_seen_in_training"] is None
    empty = replace(evaluation, auroc_error=float("nan")).to_dict()
    assert empty["auroc_error"] is None


class Echo(Predictor):
    """A predictor that returns labels plus a known error, calibrated where it is told so."""

    species, n_draws, surface, has_stress, has_energies, heads = None, 4, "mean", False, False, "none"

    def __init__(self, calibration=None):
        self.calibration = calibration

    def __call__(self, structures, need=None):
        found = []
        for atoms in structures:
            rng = np.random.default_rng(int(1e6 * abs(atoms.positions.sum())))
            raw = Prediction(
                species=atoms.numbers,
                energy=rng.standard_normal(),
                energies=None,
                forces=rng.standard_normal((len(atoms), 3)),
                stress=None,
                energy_var=1.0,
                forces_cov=np.tile(np.eye(3), (len(atoms), 1, 1)),
                stress_var=None,
                n_draws=4,
            )
            found.append(raw if self.calibration is None else self.calibration.apply(raw))
        return found


def test_any_predictor_is_evaluated(ammonia):
    from ase.calculators.singlepoint import SinglePointCalculator

    from blipcalc.calibration.fit import fit_calibration
    from blipcalc.calibration.residuals import collect, frames_hash

    frames, plain = [], ammonia.copy()
    for seed in range(120):
        atoms = ammonia.copy()
        atoms.rattle(0.1, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((4, 3)))
        frames.append(atoms)
    calibration = fit_calibration(
        collect(Echo(), frames[:60]),
        surface="mean",
        n_draws=4,
        seed=0,
        model_hash="",
        frames_hash=frames_hash(frames[:60]),
    )
    predictor = Echo(calibration)
    found = evaluate(predictor, frames[60:], foreign=[plain])
    assert not found.is_calibration_set
    assert found.n_seen_in_training is None
    assert row(found.forces.coverage, "all", "all", 0.9).inside
    assert (found.foreign.n_frames, found.foreign.n_labelled) == (1, 0)
    assert evaluate(predictor, frames[:60][::-1]).is_calibration_set
    with pytest.raises(MissingLabelsError, match="frame 0"):
        evaluate(predictor, [plain])
    at_hand = collect(predictor, frames[60:])
    assert evaluate(predictor, frames[60:], residuals=at_hand, foreign=[plain]).to_dict() == found.to_dict()
    with pytest.raises(DataError, match="60 frames, got 59"):
        evaluate(predictor, frames[61:], residuals=at_hand)
