"""Members that are trained side by side are those that would be trained one after the other on the same batches."""

from __future__ import annotations

import pytest
import torch

from blipcalc.errors import ConfigurationError
from blipcalc.model_file.model_file import load
from blipcalc.posteriors.point import PointPosterior
from blipcalc.posteriors.stored import n_networks
from blipcalc.training.batches import labelled_graphs
from blipcalc.training.config import TrainConfig
from blipcalc.training.side_by_side import fit_side_by_side
from blipcalc.training.train import train
from blipcalc.training.trainer import Trainer

JOINT = {"heads": {"predict": "joint"}}
EXACT = {"epochs": 4, "dtype": "float64", "objective": "nll_jef", "variance_warmup": 0.4}


def runs(small, folder, n=3, **settings):
    """n runs of networks with different starts, in the same order of batches."""
    frames, validation = small.pairs(12, noise=0.1), small.pairs(4, seed=1)
    made = []
    for k in range(n):
        model = small.network(frames, seed=k, **JOINT)
        graphs = labelled_graphs(frames, model.cutoff), labelled_graphs(validation, model.cutoff)
        config = TrainConfig(**(small.RUN | EXACT | settings))
        made.append(Trainer(model, PointPosterior(), *graphs, config, folder / str(k)))
    return made


def weights(trainers):
    return [{name: value.detach().clone() for name, value in t.descent.parameters.items()} for t in trainers]


def assert_same(a, b, **tolerance):
    for one, other in zip(a, b, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], msg=name, **tolerance)


def test_as_one_after_the_other(small, no_events, tmp_path):
    """Through the turn to variances, each with a unit of its own; weights, logs and best epochs."""
    alone, together = runs(small, tmp_path / "a"), runs(small, tmp_path / "b")
    for run in alone:
        run.fit()
    fit_side_by_side(together, compiled=False)
    assert_same(weights(alone), weights(together), rtol=1e-7, atol=1e-9)
    assert [run.best["epoch"] for run in alone] == [run.best["epoch"] for run in together]
    for a, b in zip(alone, together, strict=True):
        assert a.noise_units == pytest.approx(b.noise_units, rel=1e-9)
        rows = [[line.split(",")[:2] for line in run.log.path.read_text().splitlines()] for run in (a, b)]
        assert rows[0] == rows[1]
    units = {run.noise_units for run in together}
    assert len(units) == 3
    # the control: members are not each other
    with pytest.raises(AssertionError):
        assert_same(weights(together)[:1], weights(together)[1:2], rtol=1e-3, atol=1e-3)


def test_a_kill_between_the_checkpoints_of_two_members(small, no_events, tmp_path):
    whole, broken = runs(small, tmp_path / "a"), runs(small, tmp_path / "b")
    fit_side_by_side(whole, compiled=False)

    def die():
        raise KeyboardInterrupt

    save, second = broken[1]._save, broken[1]
    second._save = lambda: die() if second.epoch == 3 else save()
    with pytest.raises(KeyboardInterrupt):
        fit_side_by_side(broken, compiled=False)
    again = runs(small, tmp_path / "b")
    for run in again:
        run.begin()
    assert [run.epoch for run in again] == [3, 2, 2]
    again = runs(small, tmp_path / "b")
    fit_side_by_side(again, compiled=False)
    assert_same(weights(whole), weights(again), rtol=1e-7, atol=1e-9)
    assert [run.log.path.read_text().count("\n") for run in again] == [5, 5, 5]


def test_patience_is_each_members_own(small, no_events, tmp_path):
    made = runs(small, tmp_path, epochs=6, patience=2)
    made[0]._validate = lambda: {"energy_mae": 1.0, "forces_mae": 1.0, "score": 1.0 + made[0].epoch}
    fit_side_by_side(made, compiled=False)
    assert made[0].epoch == 3
    assert max(run.epoch for run in made[1:]) > 3


@pytest.mark.filterwarnings("ignore:the noise fit ended")
@pytest.mark.parametrize("posterior", ["ensemble", "mixture"])
def test_from_files_to_a_model(small, no_events, tmp_path, posterior):
    """A setting of the model; a mixture's networks before their noise."""
    stages = {"training": {"epochs": 2, "batch_size": 4}}
    if posterior == "mixture":
        stages = {"warm": stages["training"], "training": {"epochs": 0}, "noise": {"epochs": 1, "batch_size": 4}}
    data = {"energy_unit": "kcal/mol", "validation": 0.2, "calibration": 0.0}
    sizes = {"posterior": posterior, "members": 2, "sizes": small.SIZES}
    for name, together in (("a", False), ("b", True)):
        model = sizes | {"vectorised": together}
        train(small.ETHANOL, tmp_path / f"{name}.blip", data=data, model=model, folder=tmp_path / name, **stages)
    one, other = (load(tmp_path / f"{name}.blip") for name in ("a", "b"))
    assert n_networks(one.posterior) == n_networks(other.posterior) == 2
    # the first one has the batches that it would have alone; the others have those of the first
    for name, value in one.posterior.members.items():
        if "inference" not in name:
            torch.testing.assert_close(value[0], other.posterior.members[name][0], rtol=1e-3, atol=1e-5, msg=name)
    assert other.training["model"]["vectorised"]


def test_a_run_side_by_side_does_not_go_on_alone(small, no_events, tmp_path):
    """The order of the batches would change in the middle."""
    data = {"energy_unit": "kcal/mol", "validation": 0.2, "calibration": 0.0}
    settings = {"data": data, "training": {"epochs": 1, "batch_size": 4}, "folder": tmp_path / "run"}
    model = {"posterior": "ensemble", "members": 2, "sizes": small.SIZES}
    train(small.ETHANOL, tmp_path / "a.blip", model=model | {"vectorised": True}, **settings)
    settings["training"] = {"epochs": 2, "batch_size": 4}
    with pytest.raises(ConfigurationError, match="order"):
        train(small.ETHANOL, tmp_path / "a.blip", model=model, **settings)
    train(small.ETHANOL, tmp_path / "a.blip", model=model | {"vectorised": True}, **settings)


def test_settings_that_could_not_act_are_refused(small, tmp_path):
    with pytest.raises(ConfigurationError, match="no networks to train"):
        train(small.ETHANOL, tmp_path / "a.blip", model={"posterior": "point", "vectorised": True})
    noisy = {"posterior": "mixture", "vectorised": True}
    with pytest.raises(ConfigurationError, match="no networks to train without noise"):
        train(small.ETHANOL, tmp_path / "a.blip", model=noisy, training={"epochs": 2})
    with pytest.raises(ConfigurationError, match="train_draws"):
        train(
            small.ETHANOL,
            tmp_path / "a.blip",
            model={"posterior": "ensemble"},
            training={"epochs": 2, "train_draws": 2},
        )
    with pytest.raises(ConfigurationError, match="choose one"):
        train(small.ETHANOL, tmp_path / "a.blip", model={"posterior": "ensemble", "vectorised": True}, only_member=0)
