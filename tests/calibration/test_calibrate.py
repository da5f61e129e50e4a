"""Calibrating whole models: every surface and K, what is refused, and what the file keeps."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from ase.build import molecule as ase_molecule
from ase.calculators.singlepoint import SinglePointCalculator

from blipcalc.calibration.evaluation import evaluate
from blipcalc.calibration.fit import calibrate, fit_calibration
from blipcalc.calibration.residuals import collect, frames_hash, seen_in_training
from blipcalc.core.contracts import Draws
from blipcalc.core.predictor_contract import Need
from blipcalc.data.labels import frame_hash
from blipcalc.errors import (
    CalibrationError,
    ConfigurationError,
    DataError,
    DrawsError,
    MissingLabelsError,
    NonFiniteLabelsError,
    TrainingDataReusedError,
    UnknownElementError,
)
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import load, save_model
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.posteriors.ensemble import EnsemblePosterior, MixturePosterior, stack_members
from blipcalc.posteriors.point import PointPosterior
from blipcalc.posteriors.stored import feasible_draws
from blipcalc.predictor import BayesianPredictor

COUNTS = (4, 6)


@pytest.fixture(scope="module")
def frames(make_backbone):
    """Twenty-four rattled molecules of two kinds, labelled by another network."""
    truth = BayesianPredictor(make_backbone(seed=7), PointPosterior(), n_draws=1)
    found = []
    for seed in range(24):
        atoms = ase_molecule(("NH3", "N2H4")[seed % 2])
        atoms.rattle(0.1, seed=seed)
        label = truth([atoms], Need(variance=False))[0]
        atoms.calc = SinglePointCalculator(atoms, energy=label.energy, forces=label.forces)
        found.append(atoms)
    return found


def members(make_backbone, n):
    return stack_members([dict(make_backbone(seed=seed).named_parameters()) for seed in range(n)])


@pytest.fixture(scope="module")
def models(make_backbone, make_blip):
    """A model of each posterior; their random weights have learned nothing."""
    blip = make_blip()
    noise = BlipPosterior(blip.slot_shapes())
    blips = stack_members([dict(make_blip(seed=seed).named_parameters()) for seed in range(3)])
    return {
        "blip": Model(blip, noise),
        "mixture": Model(make_blip(), MixturePosterior(blips, noise)),
        "ensemble": Model(make_backbone(), EnsemblePosterior(members(make_backbone, 5))),
        "point": Model(make_backbone(), PointPosterior()),
    }


def assert_alike(a, b):
    """Two calibrations with the same identity, and constants that agree to rounding."""
    constants = ("scale", "scale_energy", "q_atom", "q_frame")
    assert replace(a, **dict.fromkeys(constants)) == replace(b, **dict.fromkeys(constants))
    assert a.scale_energy == pytest.approx(b.scale_energy, rel=1e-8)
    assert a.scale == pytest.approx(b.scale, rel=1e-8)
    assert a.q_frame == pytest.approx(b.q_frame, rel=1e-8)
    assert a.q_atom.keys() == b.q_atom.keys()
    for z in a.q_atom:
        assert a.q_atom[z] == pytest.approx(b.q_atom[z], rel=1e-8)


@pytest.mark.parametrize("name", ["blip", "mixture"])
def test_shared_draws_equal_separate_predictors(models, frames, name):
    """The first k of the largest K are the draws of a predictor with K = k, on both surfaces."""
    model = models[name]
    calibrated = calibrate(model, frames, n_draws=COUNTS, seed=3, batch_size=30)
    assert {(c.surface, c.n_draws, c.seed) for c in calibrated.calibrations} == {
        (surface, k, 3) for surface in ("mean", "centre") for k in COUNTS
    }
    for surface, k in (("mean", 4), ("centre", 4), ("centre", 6)):
        predictor = BayesianPredictor(model.network, model.posterior, n_draws=k, seed=3, surface=surface)
        separate = fit_calibration(
            collect(predictor, frames),
            surface=surface,
            n_draws=k,
            seed=3,
            model_hash=model.hash,
            frames_hash=frames_hash(frames),
        )
        assert_alike(calibrated.calibration(surface, k, 3), separate)


def test_an_ensemble_has_one_surface_and_no_more_draws_than_members(models, frames):
    model = models["ensemble"]
    found = calibrate(model, frames, n_draws=(3, 8, 16)).calibrations
    assert [(c.surface, c.n_draws) for c in found] == [("mean", 3), ("mean", 5)]
    with pytest.raises(DrawsError, match="no centre"):
        calibrate(model, frames, surfaces=["centre"])
    single = Model(model.network, EnsemblePosterior({n: v[:1] for n, v in model.posterior.members.items()}))
    with pytest.raises(CalibrationError, match="one member"):
        calibrate(single, frames)


@pytest.mark.parametrize(("name", "expected"), [("blip", (16, 40)), ("ensemble", (5, 5)), ("point", (1, 1))])
def test_draws_are_cut_to_what_a_posterior_can_give(models, name, expected):
    posterior = models[name].posterior
    assert (feasible_draws(posterior), feasible_draws(posterior, 40)) == expected


@dataclass(frozen=True)
class AllAtOnce(BlipPosterior):
    """A posterior whose draw k depends on how many are drawn."""

    def draw(self, n, *, generator):
        found = super().draw(n, generator=generator)
        return Draws(n, {name: value.flip(0) for name, value in found.overrides.items()})


def test_a_posterior_whose_draws_depend_on_how_many_there_are(models, frames):
    """Nothing is shared then, and the constants are still those of a predictor."""
    model = Model(models["blip"].network, AllAtOnce(models["blip"].posterior.slots))
    found = calibrate(model, frames, n_draws=COUNTS, surfaces=["mean"])
    predictor = BayesianPredictor(model.network, model.posterior, n_draws=4)
    separate = fit_calibration(
        collect(predictor, frames),
        surface="mean",
        n_draws=4,
        seed=0,
        model_hash=model.hash,
        frames_hash=frames_hash(frames),
    )
    assert_alike(found.calibration("mean", 4, 0), separate)


def test_calibrated_predictions_have_unit_z_scores_and_fits_use_raw_ones(models, frames):
    model = calibrate(models["blip"], frames, n_draws=(4,))
    predictor = BayesianPredictor.load(model, n_draws=4)
    found, raw = collect(predictor, frames), collect(predictor, frames, raw=True)
    assert found.calibration is model.calibration("mean", 4, 0)
    assert raw.calibration is None
    for z in (1, 7):
        rows = found.species == z
        assert (found.force_error[rows] ** 2 / found.forces_var[rows]).mean() == pytest.approx(1.0, rel=1e-8)
    np.testing.assert_allclose(found.atom_std, raw.apply(found.calibration).atom_std, rtol=1e-12)
    again = calibrate(model, frames, n_draws=(4,))
    assert len(again.calibrations) == len(model.calibrations) == 2
    assert_alike(again.calibration("mean", 4, 0), model.calibration("mean", 4, 0))


def test_training_frames_are_refused_with_their_number(models, frames):
    used = torch.tensor([frame_hash(atoms) for atoms in frames[3:5]])
    model = replace(models["blip"], frames=used)
    assert seen_in_training(frames, used.tolist()) == [3, 4]
    with pytest.raises(TrainingDataReusedError, match=r"2 of 24 frames .*\[3, 4\]"):
        calibrate(model, frames)
    evaluation = evaluate(
        BayesianPredictor(model.network, model.posterior, n_draws=4), frames, training_frames=used.tolist()
    )
    assert evaluation.n_seen_in_training == 2
    assert not evaluation.is_calibration_set


def test_refusals_come_before_any_work(models, frames):
    model, done = models["blip"], []
    settings = {"progress": lambda *step: done.append(step)}
    with pytest.raises(CalibrationError, match="point estimate"):
        calibrate(models["point"], frames, **settings)
    for n_draws in ((), (1, 8)):
        with pytest.raises(ConfigurationError, match="K >= 2"):
            calibrate(model, frames, n_draws=n_draws, **settings)
    with pytest.raises(ConfigurationError, match="surfaces"):
        calibrate(model, frames, surfaces=["median"], **settings)
    with pytest.raises(DataError, match="none"):
        calibrate(model, [], **settings)
    with pytest.raises(MissingLabelsError, match="frame 1"):
        calibrate(model, [frames[0], ase_molecule("NH3")], **settings)
    water = ase_molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=0.0, forces=np.zeros((3, 3)))
    with pytest.raises(UnknownElementError):
        calibrate(model, [*frames, water], **settings)
    bad = frames[0].copy()
    bad.calc = SinglePointCalculator(bad, energy=np.nan, forces=np.zeros((4, 3)))
    with pytest.raises(NonFiniteLabelsError, match="frame 0"):
        calibrate(model, [bad], **settings)
    assert done == []


def test_progress_counts_frames(models, frames):
    done = []
    predictor = BayesianPredictor(models["blip"].network, models["blip"].posterior, n_draws=2)
    collect(predictor, frames, batch_size=50, progress=lambda *step: done.append(step))
    assert done == [(10, 24), (20, 24), (24, 24)]  # five pairs of 4 + 6 atoms make 50


def test_batches_do_not_matter(models, frames):
    predictor = BayesianPredictor(models["blip"].network, models["blip"].posterior, n_draws=3)
    one, all_ = (collect(predictor, frames, batch_size=size) for size in (1, 10_000))
    np.testing.assert_allclose(one.force_error, all_.force_error, atol=1e-12)
    np.testing.assert_allclose(one.forces_cov, all_.forces_cov, atol=1e-14)
    np.testing.assert_array_equal(one.frame, all_.frame)
    assert set(one.compositions) == {"H3N", "H4N2"}


def test_the_model_file_keeps_calibrations_and_what_they_lack(models, frames, tmp_path):
    stored = replace(models["blip"], network=copy.deepcopy(models["blip"].network).float())  # as files keep weights
    model = calibrate(stored, frames, n_draws=(4,))
    assert set(model.calibration("mean", 4, 0).q_frame) == {0.68, 0.9, 0.95}  # 24 frames: 0.99 takes 99
    save_model(model, tmp_path / "model.blip")
    loaded = load(tmp_path / "model.blip")
    assert loaded.calibrations == model.calibrations
    with pytest.raises(CalibrationError, match=r"0\.99"):
        loaded.calibration("mean", 4, 0).halt_limit(0.3, 0.99)


def test_hash_of_frames_ignores_order(frames):
    assert frames_hash(frames) == frames_hash(frames[::-1])
    assert frames_hash(frames) != frames_hash(frames[1:])


def test_float32_gives_nearly_the_same_constants(models, frames):
    one, other = (calibrate(models["blip"], frames, n_draws=(4,), dtype=dtype) for dtype in ("float64", "float32"))
    assert one.calibrations[0].scale == pytest.approx(other.calibrations[0].scale, rel=1e-3)
    assert next(one.network.parameters()).dtype == next(other.network.parameters()).dtype == torch.float64
