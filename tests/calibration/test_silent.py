"""Forces that vanish by symmetry: no information, left out and counted; errors without a spread: a fault with a name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from scaled_emt import ScaledEMT

from blipcalc.adapters.committee import committee
from blipcalc.calibration.checks import check_enough
from blipcalc.calibration.evaluation import evaluate, evaluate_residuals
from blipcalc.calibration.fit import calibrate, fit_calibration
from blipcalc.calibration.residuals import collect, silence_text
from blipcalc.cli.tables import evaluation_text
from blipcalc.core.prediction import Calibration
from blipcalc.data.silent_forces import informing_frames
from blipcalc.errors import CalibrationError, DataError, TrainingWarning
from blipcalc.model_file.model_file import load
from blipcalc.training.train import train

IDENTITY = {"surface": "mean", "n_draws": 3, "seed": 0, "model_hash": "m", "frames_hash": "f"}


def test_frames_without_information_change_no_constant_and_no_figure(residuals, fitted, joined, silent):
    rng = np.random.default_rng(0)
    plain, test = residuals(rng, 200, scale={6: 4.0}), residuals(rng, 200, scale={6: 4.0})
    crystals, single = silent(60, (6, 6)), silent(7, (8,), error=0.0, spread=0.0)
    calibration, alone = fitted(joined(plain, crystals, single)), fitted(plain)
    assert (calibration.scale, calibration.q_atom, calibration.q_frame) == (alone.scale, alone.q_atom, alone.q_frame)
    assert (calibration.n_frames, calibration.n_atoms) == (200, alone.n_atoms)
    assert calibration.n_element_frames == alone.n_element_frames
    for constants in (None, alone):
        with_them = joined(test, crystals, single)
        if constants is not None:
            found, expected = (evaluate_residuals(r.apply(constants)) for r in (with_them, test))
        else:
            found, expected = evaluate_residuals(with_them), evaluate_residuals(test)
        for name in ("zms", "nll", "crps", "mean_std", "spearman", "zms_interval"):
            assert getattr(found.forces, name) == pytest.approx(getattr(expected.forces, name), rel=1e-9), name
        assert found.auroc_error == pytest.approx(expected.auroc_error)
        assert found.tolerance == pytest.approx(expected.tolerance)
        rows = [[row for row in e.forces.coverage if row.kind != "composition"] for e in (found, expected)]
        assert rows[0] == rows[1]
        assert found.frames == expected.frames
        assert (found.forces.n_silent, expected.forces.n_silent) == (3 * 127, 0)
        assert found.forces.n_left_out == 0
        assert "381 of 5781 force components vanish by symmetry" in evaluation_text(found)
        assert "vanish" not in evaluation_text(expected)
    assert "381 of 5781 force components, 127 whole atoms and 67 whole frames" in silence_text(with_them)


def test_one_component_that_vanishes_costs_no_other(residuals, fitted):
    """Atoms in a mirror plane: z is silent, and x and y are Gaussian with twice the reported deviation."""
    found = residuals(np.random.default_rng(1), 4000, (6, 1), scale={6: 4.0, 1: 4.0})
    error, cov = found.force_error.copy(), found.forces_cov.copy()
    error[:, 2], cov[:, 2] = 0.0, 0.0
    cov[:, :, 2] = 0.0
    planar = replace(found, force_error=error, forces_cov=cov)
    calibration = fitted(planar)
    assert calibration.scale[6] == pytest.approx(4.0, rel=0.05)  # sd sqrt(2 / 8000) = 1.6 %
    evaluation = evaluate_residuals(planar)
    assert evaluation.forces.zms == pytest.approx(4.0, rel=0.05)
    assert (evaluation.forces.n_left_out, evaluation.forces.n_silent) == (0, 8000)
    after = evaluate_residuals(
        residuals(np.random.default_rng(2), 2000, (6, 1), scale={6: 4.0, 1: 4.0}).apply(calibration)
    )
    assert after.forces.zms == pytest.approx(1.0, rel=0.05)


def test_silent_atoms_are_not_counted_as_covered(residuals, fitted, joined, silent):
    """Half of the atoms silent, the others with errors twice as large as calibrated: coverage is theirs alone."""
    rng = np.random.default_rng(3)
    calibration = fitted(residuals(rng, 400, (6,)))
    worse = residuals(rng, 400, (6,), scale={6: 4.0})
    found = evaluate_residuals(joined(worse, silent(400)).apply(calibration))
    (row,) = [row for row in found.forces.coverage if (row.kind, row.level) == ("all", 0.95)]
    expected = (worse.apply(calibration).ratio <= calibration.q_atom[6][0.95]).mean()
    assert row.observed == pytest.approx(expected, abs=1e-12)
    assert row.observed < 0.8
    assert (row.n_frames, row.inside) == (400, False)


def test_an_error_without_a_spread_names_frame_and_atom(residuals, fitted, silent, joined):
    good = residuals(np.random.default_rng(4), 50)
    cov = good.forces_cov.copy()
    cov[9 * 17 + 2, 1], cov[9 * 17 + 2, :, 1] = 0.0, 0.0
    bad = replace(good, forces_cov=cov)
    with pytest.raises(
        CalibrationError, match=r"1 of 450 force errors .*frame 17, atom 2, O, along y: an error of .* eV/Å"
    ):
        fitted(bad)
    with pytest.raises(CalibrationError, match=r"force errors .*frame 50, atom 0, C"):
        fitted(joined(good, silent(3, error=0.02)))
    energy = good.energy_var.copy()
    energy[7] = 0.0
    with pytest.raises(CalibrationError, match=r"energy errors .*frame 7: an error of .* spread of 0 eV"):
        fitted(replace(good, energy_var=energy))
    evaluation = evaluate_residuals(bad)
    assert (evaluation.forces.frames_without_spread, evaluation.forces.n_left_out) == ((17,), 1)
    assert np.isfinite(evaluation.forces.zms)
    assert "WARNING: forces of 1 frames (first: [17]) have an error and no spread" in evaluation_text(evaluation)


def test_nothing_but_silence_is_said_so(fitted, silent, residuals):
    with pytest.raises(CalibrationError, match="at least 10 frames, got C in 0"):
        fitted(silent(60))
    for found in (silent(60), silent(60).apply(fitted(residuals(np.random.default_rng(5), 60)))):
        text = evaluation_text(evaluate_residuals(found))
        assert "180 of 180 force components vanish by symmetry" in text
        assert "NO COVERAGE and no scores of forces" in text
        assert "energy   NLL" in text
        assert "forces   NLL" not in text
        assert "AUROC" not in text


# -- a real committee on real crystals


def labelled(atoms):
    emt = EMT()
    atoms.calc = SinglePointCalculator(
        atoms, energy=emt.get_property("energy", atoms), forces=emt.get_property("forces", atoms)
    )
    return atoms


def rattled(n):
    frames = [bulk("Cu", cubic=True, a=3.6) for _ in range(n)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.08, seed=seed)
    return [labelled(atoms) for atoms in frames]


def perfect(n):
    return [labelled(bulk("Cu", a=a)) for a in np.linspace(3.45, 3.9, n)]


def alone():
    return labelled(Atoms("Cu", [[10, 10, 10]], cell=[20] * 3))


def test_crystals_and_single_atoms_among_rattled_ones():
    predictor = committee([ScaledEMT(f) for f in (0.95, 1.02, 1.1)])
    rng, frames = np.random.default_rng(0), rattled(30)
    for atoms in frames:  # the error of a label is not the same for all atoms
        atoms.calc.results["forces"] *= 1 + 0.1 * rng.standard_normal((4, 3))
    mixed = [*frames, *perfect(8)]
    calibration = fit_calibration(collect(predictor, mixed), **IDENTITY)
    plain = fit_calibration(collect(predictor, frames), **IDENTITY)
    assert isinstance(calibration, Calibration)
    assert (calibration.scale, calibration.q_atom, calibration.n_frames) == (plain.scale, plain.q_atom, 30)
    evaluation = evaluate(predictor, [*mixed, alone()])
    assert evaluation.forces.n_silent == 3 * 9
    assert evaluation.forces.zms == pytest.approx(plain.scale[29], rel=1e-9)
    assert "27 of 387 force components vanish by symmetry" in evaluation_text(evaluation)


def test_what_labels_say_before_anything_is_trained():
    assert informing_frames([*rattled(3), *perfect(5), alone()]) == {29: 3}
    check_enough([*rattled(10), *perfect(5)])
    with pytest.raises(CalibrationError, match=r"at least 10 frames, got Cu in 0; .*--no-calibrate"):
        check_enough(perfect(60))
    with pytest.raises(CalibrationError, match="5 frames are held out"):
        check_enough(perfect(5))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": {"posterior": "mixture"}}, "frames that would fit the noise vanish"),
        ({"model": {"posterior": "llpr"}}, r"frames that would make the posterior \(train frames\) vanish"),
        ({"model": {"posterior": "laplace"}}, r"frames that would make the posterior \(train frames\) vanish"),
    ],
)
def test_a_training_that_could_not_be_finished_is_not_begun(tmp_path, settings, words):
    write(tmp_path / "crystals.extxyz", perfect(40), format="extxyz")
    folder = tmp_path / "run"
    with pytest.raises(DataError, match=words):
        train(tmp_path / "crystals.extxyz", tmp_path / "m.blip", folder=folder, **settings)
    assert not folder.exists()


def test_a_training_on_energies_alone_says_so_before_it_begins(tmp_path, monkeypatch):
    write(tmp_path / "crystals.extxyz", perfect(40), format="extxyz")
    began = []
    monkeypatch.setattr("blipcalc.training.train.train_members", lambda *args: began.append(args))
    with pytest.warns(TrainingWarning, match="all forces of the .* training frames vanish"), pytest.raises(TypeError):
        train(tmp_path / "crystals.extxyz", tmp_path / "m.blip", model={"posterior": "point"}, folder=tmp_path / "run")
    assert len(began) == 1


def test_calibrate_refuses_before_it_evaluates(monkeypatch):
    monkeypatch.setattr("blipcalc.calibration.fit._predict", lambda *args: pytest.fail("evaluated"))
    with pytest.raises(CalibrationError, match="Si in 0"):
        calibrate(load("silica"), [with_silicon(atoms) for atoms in perfect(12)])


def with_silicon(atoms):
    atoms.numbers[:] = 14
    return atoms
