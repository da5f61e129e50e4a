"""Two who load one model file, change it and save it: nothing of either is lost, and what contradicts is refused."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace

import numpy as np
import pytest

from blipcalc.core.domain import fit_domain
from blipcalc.core.prediction import Calibration
from blipcalc.errors import ChangedFileError
from blipcalc.model_file.merge import merged
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import load, save_model
from blipcalc.posteriors.blip import BlipPosterior

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def fresh(make_blip):
    network = make_blip("painn").float()
    return Model(network, BlipPosterior(network.slot_shapes()))


@pytest.fixture
def path(fresh, tmp_path):
    save_model(fresh, tmp_path / "model.blip")
    return tmp_path / "model.blip"


def calibration(model, n_draws, scale=1.0):
    return Calibration(
        "mean", n_draws, 0, model.hash, {1: scale, 7: scale}, scale, {}, {}, 10, {1: 10, 7: 10}, "ab", {1: 10, 7: 10}
    )


def with_calibration(model, n_draws, scale=1.0):
    return model.with_calibrations(calibration(model, n_draws, scale))


def ks(path):
    return sorted(c.n_draws for c in load(path).calibrations)


def calibrating(path, n_draws, barrier):
    model = load(path)
    barrier.wait()  # all have loaded it before one saves
    save_model(with_calibration(model, n_draws), path)


def test_processes_that_calibrate_one_file_keep_each_others_constants(path):
    barrier = FORK.Barrier(3)
    processes = [FORK.Process(target=calibrating, args=(path, k, barrier)) for k in (4, 8, 16)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert ks(path) == [4, 8, 16]
    assert os.listdir(path.parent) == ["model.blip"]


def test_two_constants_for_the_same_settings_are_refused_by_name(path):
    mine, theirs = load(path), load(path)
    save_model(with_calibration(theirs, 8, scale=2.0), path)
    with pytest.raises(ChangedFileError, match=r"calibration of surface=mean, K=8, seed=0.*load it again"):
        save_model(with_calibration(mine, 8, scale=3.0), path)
    assert load(path).calibrations[0].scale_energy == 2.0
    save_model(with_calibration(mine, 8, scale=2.0), path)  # alike: no contradiction
    save_model(with_calibration(load(path), 8, scale=3.0), path)  # loaded again: what it replaces is known
    assert load(path).calibrations[0].scale_energy == 3.0


def test_what_is_taken_out_on_purpose_stays_out(path):
    save_model(with_calibration(with_calibration(load(path), 4), 8), path)
    loaded = load(path)
    save_model(with_calibration(load(path), 16), path)
    save_model(replace(loaded, calibrations=()), path)
    assert ks(path) == [16]


def test_a_domain_and_a_calibration_go_together(path, fresh, molecule):
    """One adds where the data were, the other constants."""
    frames = []
    for seed in range(40):
        frames.append(molecule.copy())
        frames[-1].positions += np.random.default_rng(seed).normal(scale=0.1, size=molecule.positions.shape)
    domain = fit_domain(fresh.network, frames)
    mine, theirs = load(path), load(path)
    save_model(with_calibration(theirs, 8), path)
    save_model(replace(mine, domain=domain), path)
    found = load(path)
    assert ks(path) == [8]
    assert found.domain.n_frames == domain.n_frames


def test_another_model_in_its_place_is_refused(path, make_blip):
    mine = load(path)
    network = make_blip("painn", 1).float()
    other = Model(network, BlipPosterior(network.slot_shapes()))
    save_model(other, path)  # who never read the file replaces it
    with pytest.raises(ChangedFileError, match="another model"):
        save_model(with_calibration(mine, 8), path)
    assert load(path).hash == other.hash


def test_a_copy_elsewhere_keeps_what_is_there_of_the_same_network(path, tmp_path):
    other = tmp_path / "copy.blip"
    mine, again = load(path), load(path)
    save_model(with_calibration(mine, 8), other)
    save_model(with_calibration(again, 16), other)
    assert ks(other) == [8, 16]
    save_model(with_calibration(again, 16, scale=5.0), other)  # named by its writer: his own constants
    assert sorted(c.scale_energy for c in load(other).calibrations) == [1.0, 5.0]


def test_changes_of_two_are_put_together():
    before = {"a": 1, "b": 2, "c": 3, "d": 4}
    found = merged("file", before, {"a": 9, "b": 2, "c": 3}, {"a": 1, "b": 8, "c": 3, "d": 4, "e": 5})
    assert found == {"a": 9, "b": 8, "c": 3, "d": None, "e": 5}
    with pytest.raises(ChangedFileError, match=r"file changed .* a, d;"):
        merged("file", before, before | {"a": 9, "d": 5}, before | {"a": 8, "d": 6})


def test_one_session_may_save_twice_and_keeps_what_another_added(path):
    mine, theirs = with_calibration(load(path), 4, 2.0), with_calibration(load(path), 8, 3.0)
    save_model(mine, path)
    save_model(theirs, path)
    for scale in (4.0, 5.0):
        mine = with_calibration(mine, 4, scale)
        save_model(mine, path)
    assert {c.n_draws: c.scale_energy for c in load(path).calibrations} == {4: 5.0, 8: 3.0}
