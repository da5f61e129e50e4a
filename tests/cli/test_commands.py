"""The commands as a user types them, on thirty real frames."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.build import molecule as ase_molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from typer.testing import CliRunner

from blipcalc.calibration.comparison import COMPARISON
from blipcalc.calibration.fit import calibrate
from blipcalc.cli.main import app
from blipcalc.cli.options import make_folder
from blipcalc.cli.settings import sections
from blipcalc.data.labels import frame_hash, read_labelled
from blipcalc.errors import (
    BlipcalcError,
    ConfigurationError,
    DrawsError,
    MissingLabelsError,
    TrainingDataReusedError,
    UnknownElementError,
    UnknownKeyError,
)
from blipcalc.files.bundled import bundle_path
from blipcalc.files.json_file import read_json
from blipcalc.files.safetensors_file import read_sealed
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import load, save_model
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.posteriors.ensemble import EnsemblePosterior, stack_members
from blipcalc.posteriors.point import PointPosterior
from blipcalc.predictor import BayesianPredictor

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
    model = load(trained)
    assert {(c.surface, c.n_draws) for c in model.calibrations} == {
        (s, k) for s in ("mean", "centre") for k in (8, 16, 32)
    }
    assert model.training["n_train"] == 12
    assert model.training["n_calibration"] == 15
    assert model.training["command"].startswith("blipcalc")
    assert (trained.parent / "run" / "member-0" / "warm" / "log.csv").exists()


@pytest.mark.filterwarnings("ignore:the noise fit ended")
def test_train_fits_the_noise_of_two_networks_by_default(tmp_path):
    """Error bars to a trained network, and what info says of α."""
    tiny = [setting.replace("training.", "warm.") for setting in TINY]
    settings = [x for s in (*tiny, "data.calibration=0.4", "data.validation=0.2") for x in ("--set", s)]
    common = ["--energy-unit", "kcal/mol", "--folder", tmp_path / "run", "--noise-epochs", 2, *settings]
    call("train", FRAMES, "-o", tmp_path / "two.blip", "--warm-epochs", 1, *common, "--set", "noise.batch_size=4")
    model = load(tmp_path / "two.blip")
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
        ["training.batch_size=5", "model.posterior_settings.where=last", "model.sizes={}"],
        training={},
        model={"sizes": 1},
    )
    assert found == {"training": {"batch_size": 5}, "model": {"sizes": {}, "posterior_settings": {"where": "last"}}}
    for bad in ("batch_size=5", "training.batch_size"):
        with pytest.raises(ConfigurationError, match=r"expected --set|unknown section"):
            sections([bad], training={})
    with pytest.raises(ConfigurationError, match="did you mean 'training'"):
        sections(["traning.epochs=1"], training={})


@pytest.mark.parametrize(
    "setting", ["training.epoch=1", "model.posterior_settings.were=last", "model.sizes.feature=8", "data.seed=1"]
)
def test_unknown_settings_name_the_nearest(setting, tmp_path):
    with pytest.raises(BlipcalcError, match="did you mean"):
        call(
            "train", FRAMES, "-o", tmp_path / "x.blip", "--energy-unit", "kcal/mol", "--no-calibrate", "--set", setting
        )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "training.learning_rate=0.1"], "would not act, there is no training with noise"),
        (
            ["--warm-epochs", 0, "--epochs", 1, "--set", "warm.batch_size=3"],
            "would not act, there is no training without",
        ),
        (["--posterior", "ensemble", "--set", "noise.draws=3"], "would not act, there is no fit of the noise"),
        (["--set", "model.posterior=point", "--set", "noise.draws=3"], "would not act, there is no fit of the noise"),
        (["--set", "model.posterior.x=1"], "a value already"),
        ([], "3 frames are held out, and calibration takes 10"),
    ],
)
def test_what_cannot_act_is_refused_before_any_work(arguments, message, tmp_path):
    with pytest.raises(BlipcalcError, match=message):
        call("train", FRAMES, "-o", tmp_path / "x.blip", "--energy-unit", "kcal/mol", *arguments)


def test_members_of_a_mixture_are_the_networks_that_were_trained(trained):
    model = load(trained)
    name = "backbone.messages.0.outer.weight"
    stored = [read_sealed(trained.parent / "run" / f"member-{k}" / "checkpoint.safetensors")[0] for k in range(2)]
    for k in range(2):
        assert torch.equal(model.posterior.members[name][k], stored[k][f"best/{name}"])
    assert not torch.equal(*model.posterior.members[name])


@pytest.fixture(scope="module")
def data(make_backbone, tmp_path_factory):
    """A folder: 20 labelled frames to calibrate on and 4 of training, 6 without labels, and 2 of which one has them."""
    folder = tmp_path_factory.mktemp("data")
    truth, frames = BayesianPredictor(make_backbone(seed=7), PointPosterior(), n_draws=1), []
    for seed in range(24):
        atoms = ase_molecule(("NH3", "N2H4")[seed % 2])
        atoms.rattle(0.1, seed=seed)
        label = truth([atoms])[0]
        atoms.calc = SinglePointCalculator(atoms, energy=label.energy, forces=label.forces)
        frames.append(atoms)
    plain = [atoms.copy() for atoms in frames[:6]]
    write(folder / "calibration.xyz", frames[:20])
    write(folder / "training.xyz", frames[20:])
    write(folder / "plain.xyz", plain)
    write(folder / "half.xyz", [frames[0], plain[1]])
    return folder


@pytest.fixture(scope="module")
def models(data, make_backbone, make_blip):
    """Model files of random weights: a BLIP with constants for K = 4 and 8, an ensemble of three, a point estimate."""
    blip = make_blip().float()
    used = torch.tensor([frame_hash(atoms) for atoms in read_labelled(data / "training.xyz")])
    frames = read_labelled(data / "calibration.xyz")
    members = stack_members([dict(make_backbone(seed=seed).float().named_parameters()) for seed in range(3)])
    point = Model(make_backbone().float(), PointPosterior())
    found = {
        "blip": calibrate(
            Model(blip, BlipPosterior(blip.slot_shapes()), frames=used), frames, surfaces=["mean"], n_draws=(4, 8)
        ),
        "ensemble": calibrate(replace(point, posterior=EnsemblePosterior(members)), frames),
        "point": point,
    }
    for name, model in found.items():
        save_model(model, data / f"{name}.blip")
    return {name: data / f"{name}.blip" for name in found}


def evaluated(folder, *arguments):
    """What ``evaluate`` prints, and what it writes."""
    text = call("evaluate", *arguments, "-o", folder)
    return text, json.loads((folder / "evaluation.json").read_text())


def test_evaluate_tells_frames_that_it_was_calibrated_on_and_frames_of_training(models, data, tmp_path):
    text, found = evaluated(tmp_path, models["blip"], data / "calibration.xyz", "--n-draws", 8)
    assert "frames of the calibration itself" in text
    assert (found["is_calibration_set"], found["n_seen_in_training"]) == (True, 0)
    text, found = evaluated(tmp_path, models["blip"], data / "training.xyz", "--n-draws", 8)
    assert "4 of 4 frames were in the training data" in text
    assert (found["is_calibration_set"], found["n_seen_in_training"]) == (False, 4)
    _, found = evaluated(tmp_path, models["point"], data / "training.xyz")
    assert found["n_seen_in_training"] is None  # the file does not say what it was trained on


def test_evaluate_names_the_calibration_that_it_applies(models, data, tmp_path):
    text, _ = evaluated(tmp_path, models["blip"], data / "training.xyz", "--n-draws", 4)
    assert "calibrated on 20 frames: surface=mean, K=4, seed=0" in text
    assert "UNCALIBRATED" not in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("--n-draws", 8, "--seed", 3), "no constants for surface=mean, K=8, seed=3; there are surface=mean, K=4, 8, seed=0"),
        (("--n-draws", 6), "no constants for surface=mean, K=6, seed=0; there are"),
        (("--n-draws", 8, "--raw"), "posterior values, as --raw asks for; surface=mean, K=8, seed=0"),
    ],
)  # fmt: skip
def test_evaluate_says_what_is_not_calibrated(given, expected, models, data, tmp_path):
    text, found = evaluated(tmp_path, models["blip"], data / "training.xyz", *given)
    assert f"UNCALIBRATED: {expected}" in text
    assert "[nan, nan]" not in text
    assert found["n_calibration"] is None


def test_evaluate_says_that_one_surface_has_no_spread(models, data, tmp_path):
    for given in ((models["point"],), (models["blip"], "--n-draws", 1)):
        text, found = evaluated(tmp_path, *given, data / "training.xyz", "--foreign", data / "plain.xyz")
        assert "no spread" in text
        for word in ("never calibrated", "uncalibrated", "UNCALIBRATED", "nan"):
            assert word not in text
        assert (found["n_uncalibrated"], found["foreign"]["n_left_out"]) == (0, 0)


def test_foreign_structures_need_no_labels_and_have_an_index_of_their_own(models, data, tmp_path):
    arguments = (models["blip"], data / "training.xyz", "--n-draws", 8, "--index", "1::2")
    text, found = evaluated(tmp_path, *arguments, "--foreign", data / "plain.xyz")
    assert "foreign: 6 frames, AUROC of the largest atom_std" in text
    assert "0 labelled\n" in text
    assert (found["n_frames"], found["foreign"]["n_frames"], found["foreign"]["n_labelled"]) == (2, 6, 0)
    both = ("--foreign", data / "plain.xyz", "--foreign", data / "calibration.xyz", "--foreign-index", "::2")
    text, found = evaluated(tmp_path, *arguments, *both)
    assert "forces MAE" in text.split("10 labelled")[1]
    assert (found["n_frames"], found["foreign"]["n_frames"], found["foreign"]["n_labelled"]) == (2, 13, 10)


def test_lengths_of_foreign_structures_without_labels_are_converted(models, data, tmp_path):
    small = read(data / "plain.xyz", index=":")
    for atoms in small:
        atoms.positions /= 10.0
    write(tmp_path / "nm.xyz", small)
    frames = read_labelled(data / "calibration.xyz")[:6]
    for atoms in frames:
        label = atoms.calc.results
        atoms.positions /= 10.0
        atoms.calc = SinglePointCalculator(atoms, energy=label["energy"], forces=10.0 * label["forces"])
    write(tmp_path / "labelled.xyz", frames)
    _, found = evaluated(
        tmp_path, models["blip"], tmp_path / "labelled.xyz", "--n-draws", 8, "--length-unit", "nm",
        "--foreign", tmp_path / "nm.xyz",
    )  # fmt: skip
    assert found["foreign"]["auroc"] == pytest.approx(0.5, abs=0.05)  # the same structures on both sides


def test_foreign_labels_are_not_dropped_in_silence(models, data, tmp_path):
    """A file of which some frames have labels is damaged; labels under another name were meant to be read."""
    arguments = ("evaluate", models["blip"], data / "training.xyz", "--n-draws", 8, "-o", tmp_path, "--foreign")
    with pytest.raises(MissingLabelsError, match=r"half\.xyz, frame 1"):
        call(*arguments, data / "half.xyz")
    renamed = read(data / "training.xyz", index=":")
    for atoms in renamed:
        atoms.info["dft"], atoms.arrays["dft_forces"] = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
    write(tmp_path / "renamed.xyz", renamed)
    keys = ("--energy-key", "dft", "--forces-key", "dft_forces")
    arguments = (
        "evaluate",
        models["blip"],
        tmp_path / "renamed.xyz",
        *keys,
        "--n-draws",
        8,
        "-o",
        tmp_path,
        "--foreign",
    )
    with pytest.raises(UnknownKeyError, match="no energy under 'dft'"):
        call(*arguments, data / "training.xyz")
    assert "0 labelled" in call(*arguments, data / "plain.xyz")


def test_calibrate_does_not_overwrite_a_bundled_model(data):
    for name in ("rmd17", bundle_path("rmd17.blip")):
        before = bundle_path("rmd17.blip").stat()
        with pytest.raises(ConfigurationError, match=r"bundled.*-o"):
            call("calibrate", name, data / "there-is-no-such-file.xyz")  # refused before the data are looked at
        assert bundle_path("rmd17.blip").stat() == before


def test_calibrate_writes_its_model_file_or_another(models, data, tmp_path):
    mine = tmp_path / "mine.blip"
    mine.write_bytes(models["blip"].read_bytes())
    call("calibrate", mine, data / "calibration.xyz", "--n-draws", 4, "--seed", 5)
    assert {c.seed for c in load(mine).calibrations} == {0, 5}
    call("calibrate", mine, data / "calibration.xyz", "--n-draws", 4, "--seed", 6, "-o", tmp_path / "other.blip")
    assert {c.seed for c in load(mine).calibrations} == {0, 5}
    assert {c.seed for c in load(tmp_path / "other.blip").calibrations} == {0, 5, 6}


def test_evaluate_takes_all_members_of_a_small_ensemble(models, data, tmp_path):
    text, found = evaluated(tmp_path, models["ensemble"], data / "training.xyz")
    assert found["n_draws"] == 3
    assert "calibrated on 20 frames: surface=mean, K=3, seed=0" in text
    with pytest.raises(DrawsError, match="3 members"):
        evaluated(tmp_path, models["ensemble"], data / "training.xyz", "--n-draws", 16)


def test_compare_puts_models_side_by_side(trained, tmp_path):
    point = tmp_path / "point.blip"
    model = load(trained)
    save_model(Model(model.network.backbone, PointPosterior()), point)
    swag = tmp_path / "swag.blip"
    settings = [
        x
        for s in (*TINY, "data.calibration=0.4", "data.validation=0.1", "model.posterior_settings.rank=3")
        for x in ("--set", s)
    ]
    call(
        "train", FRAMES, "-o", swag, "--energy-unit", "kcal/mol", "--posterior", "swag", "--epochs", 8, "--warm-epochs", 0,
        "--folder", tmp_path / "run", *settings,
    )  # fmt: skip
    out = call(
        "compare", trained, point, swag, "--data", FRAMES, "--foreign", FRAMES, "--foreign-energy-unit", "kcal/mol",
        "--energy-unit", "kcal/mol", "-o", tmp_path / "out", "--n-draws", 8, "--index", "::2",
    )  # fmt: skip
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    header, cells = rows[0], {row[0]: row for row in rows[2:]}
    assert cells.keys() == {"my", "point", "swag"}
    assert cells["swag"][1] == "PaiNN swag"
    assert (cells["my"][2], cells["point"][2]) == ("8", "1")
    nll = header.index("NLL")
    assert cells["point"][nll] == ""
    assert all(cells[name][nll] for name in ("my", "swag"))
    figures = read_json(tmp_path / "out" / "comparison.json", COMPARISON)["models"]
    for name in ("my", "swag"):
        posterior, calibrated, isotonic = figures[name]["forces_ce"]
        assert 0 <= min(posterior, calibrated, isotonic) <= max(posterior, calibrated, isotonic) <= 1 / 3 + 1e-3
    assert figures["point"]["forces_ce"] == [None, None, None]
    assert figures["swag"]["n_seen_in_training"] > 0
    assert "WARNING: swag saw" in out
    assert (tmp_path / "out" / "comparison.md").read_text().strip() in out
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 10_000
    with pytest.raises(ConfigurationError, match="one name"):
        call("compare", trained, trained, "--data", FRAMES, "--energy-unit", "kcal/mol")
    # elements that a model does not know: no figures of foreign frames, but of the set itself a refusal before any work
    write(tmp_path / "new.xyz", bulk("Si"))
    out = call(
        "compare", trained, swag, "--data", FRAMES, "--foreign", tmp_path / "new.xyz", "--energy-unit", "kcal/mol",
        "-o", tmp_path / "out", "--n-draws", 8, "--index", "::2",
    )  # fmt: skip
    assert "NOTE: swag does not know all elements" in out
    labelled = bulk("Si")
    labelled.calc = SinglePointCalculator(labelled, energy=0.0, forces=np.zeros((2, 3)))
    write(tmp_path / "new.xyz", labelled)
    with pytest.raises(UnknownElementError, match="my does not know Si"):
        call("compare", trained, swag, "--data", tmp_path / "new.xyz")


def test_a_file_is_no_folder_for_results(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be a folder"):
        make_folder(tmp_path / "out", context=None)
    with pytest.raises(ConfigurationError, match="cannot be a folder"):
        make_folder(tmp_path / "out" / "deeper", context=None)
