"""The commands as a user types them, on thirty real frames."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from blipcalc.checkpoint import load_model
from blipcalc.cli.main import app
from blipcalc.cli.settings import sections
from blipcalc.errors import BlipcalcError, ConfigurationError, TrainingDataReusedError
from blipcalc.sealed import read_sealed

FRAMES = str(Path(__file__).parents[1] / "data" / "rmd17_ethanol_30.npz")
TINY = ["model.sizes.features=8", "model.sizes.interactions=1", "model.sizes.n_radial=6", "training.batch_size=4"]


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    settings = [x for s in (*TINY, "data.calibration=0.5", "data.validation=0.1") for x in ("--set", s)]
    out = call(
        "train", FRAMES, "-o", folder / "my.blip", "--energy-unit", "kcal/mol", "--posterior", "mixture", "--epochs", 2,
        "--warm-epochs", 1, "--folder", folder / "run", *settings,
    )  # fmt: skip
    assert "wrote" in out
    return folder / "my.blip"


def test_train_writes_a_calibrated_model_and_its_log(trained):
    model = load_model(trained)
    assert {(c.surface, c.n_draws) for c in model.calibrations} == {
        (s, k) for s in ("mean", "centre") for k in (8, 16, 32)
    }
    assert model.training["n_train"] == 12
    assert model.training["n_calibration"] == 15
    assert model.training["command"].startswith("blipcalc")
    assert (trained.parent / "run" / "member-0" / "warm" / "log.csv").exists()


def test_train_fits_the_noise_of_two_networks_by_default(tmp_path):
    """Error bars to a trained network, and what info says of α."""
    settings = [x for s in (*TINY, "data.calibration=0.4", "data.validation=0.2") for x in ("--set", s)]
    common = ["--energy-unit", "kcal/mol", "--folder", tmp_path / "run", "--noise-epochs", 2, *settings]
    call("train", FRAMES, "-o", tmp_path / "two.blip", "--warm-epochs", 1, *common, "--set", "noise.batch_size=4")
    model = load_model(tmp_path / "two.blip")
    assert (model.posterior.name, model.surface, model.network.config.inputs) == ("mixture", "centre", "neighbourhood")
    assert (model.training["training"]["epochs"], model.training["noise"]["epochs"]) == (0, 2)
    assert (tmp_path / "run" / "noise" / "log.csv").exists()
    assert "learned α" in call("info", tmp_path / "two.blip")


def test_info_prints_what_is_in_a_file(trained):
    text = call("info", trained)
    for word in ("painn", "mixture", "H C O", "calibrated", "rmd17_ethanol_30.npz"):
        assert word in text
    assert json.loads(call("info", trained, "--json"))["posterior"] == "mixture"


def test_evaluate_prints_figures_and_writes_plots(trained, tmp_path):
    text = call(
        "evaluate",
        trained,
        FRAMES,
        "--energy-unit",
        "kcal/mol",
        "-o",
        tmp_path / "e",
        "--n-draws",
        8,
        "--foreign",
        FRAMES,
        "--foreign-energy-unit",
        "kcal/mol",
    )
    assert "forces   MAE" in text
    assert "foreign" in text
    stored = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert stored["n_frames"] == 30
    assert all((tmp_path / "e" / name).stat().st_size > 5000 for name in ("reliability.png", "error_against_sigma.png"))


def test_calibrate_refuses_training_frames(trained):
    with pytest.raises(TrainingDataReusedError):
        call("calibrate", trained, FRAMES, "--energy-unit", "kcal/mol", "-o", trained.with_name("other.blip"))
    assert not trained.with_name("other.blip").exists()


def test_errors_are_one_line(trained, monkeypatch, capsys):
    from blipcalc.cli import main

    monkeypatch.setattr("sys.argv", ["blipcalc", "info", "nothing.blip"])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("ModelFileError: no such file")


def test_settings_from_the_command_line():
    found = sections(
        ["training.batch_size=5", "model.blip.where=last", "model.sizes={}"], training={}, model={"sizes": 1}
    )
    assert found == {"training": {"batch_size": 5}, "model": {"sizes": {}, "blip": {"where": "last"}}}
    for bad in ("batch_size=5", "training.batch_size"):
        with pytest.raises(ConfigurationError, match=r"expected --set|unknown section"):
            sections([bad], training={})
    with pytest.raises(ConfigurationError, match="did you mean 'training'"):
        sections(["traning.epochs=1"], training={})


@pytest.mark.parametrize(
    "setting", ["training.epoch=1", "model.blip.were=last", "model.sizes.feature=8", "data.seed=1"]
)
def test_unknown_settings_name_the_nearest(setting, tmp_path):
    with pytest.raises(BlipcalcError, match="did you mean"):
        call("train", FRAMES, "-o", tmp_path / "x.blip", "--energy-unit", "kcal/mol", "--set", setting)


def test_members_of_a_mixture_are_the_networks_that_were_trained(trained):
    model = load_model(trained)
    name = "backbone.messages.0.outer.weight"
    stored = [read_sealed(trained.parent / "run" / f"member-{k}" / "checkpoint.safetensors")[0] for k in range(2)]
    for k in range(2):
        assert torch.equal(model.posterior.members[name][k], stored[k][f"best/{name}"])
    assert not torch.equal(*model.posterior.members[name])
