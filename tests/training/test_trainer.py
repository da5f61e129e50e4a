"""The training loop: it learns, it resumes bit for bit after a kill, it selects, stops and refuses by name."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blipcalc.core.contracts import place_draws
from blipcalc.core.evaluate import Evaluator
from blipcalc.core.graph import Graph
from blipcalc.errors import CheckpointWarning, ConfigurationError, NonFiniteError
from blipcalc.files import run_folder
from blipcalc.files.run_folder import last_checkpoint
from blipcalc.files.safetensors_file import read_sealed
from blipcalc.posteriors import inference
from blipcalc.training import logs, trainer
from blipcalc.training.batches import collate
from blipcalc.training.config import TrainConfig
from blipcalc.training.logs import RunLog

pytestmark = pytest.mark.usefixtures("no_events")
SCRIPT = Path(__file__).parents[1] / "small_run.py"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def column(run, name: str) -> list[float]:
    return [float(row[name]) for row in run.log.rows()]


def weights(run) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in run.descent.parameters.items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(v, second[n]) for n, v in first.items())


def alphas(run):
    with torch.no_grad():
        return run.model.inference(collate(run.train, run.dtype).graph)


# -- it learns ----------------------------------------------------------------------------------------------------------


def test_a_small_network_overfits_eight_frames(small, tmp_path):
    frames = small.ethanol(8)
    run = small.build(tmp_path, frames, frames, sizes={"features": 16}, epochs=100, learning_rate=1.5e-2)
    run.fit()
    forces = column(run, "forces_mae")
    assert 0.3 < forces[0] < 1.5  # eV/Å: nothing is learned yet
    assert min(forces) < forces[0] / 5
    assert column(run, "step")[-1] == 200


def test_training_is_a_function_of_its_seed_and_leaves_the_global_stream_alone(small, tmp_path):
    before = torch.get_rng_state()
    runs = [small.resumable(tmp_path / str(k), epochs=2, seed=seed) for k, seed in enumerate((7, 7, 8))]
    for run in runs:
        run.fit()
    assert torch.equal(before, torch.get_rng_state())
    assert equal(weights(runs[0]), weights(runs[1]))
    assert not equal(weights(runs[0]), weights(runs[2]))


def test_the_best_weights_end_in_the_model(small, tmp_path):
    run = small.resumable(tmp_path, epochs=6, learning_rate=3e-2)
    run.fit()
    scores = column(run, "score")
    assert run.best["epoch"] == int(np.argmin(scores)) + 1
    np.testing.assert_allclose(run.best["score"], min(scores), rtol=1e-7)
    assert equal(weights(run), run.descent.best)


def test_the_log_has_one_row_per_epoch_with_all_figures(small, tmp_path):
    run = small.resumable(tmp_path)
    run.fit()
    rows = run.log.rows()
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [row["step"] for row in rows] == ["3", "6", "9", "12", "15"]
    wanted = {
        "epoch",
        "step",
        "lr",
        "train_energy",
        "train_forces",
        "train_penalty",
        "energy_mae",
        "forces_mae",
        "score",
    }
    assert set(rows[0]) == wanted
    assert all(np.isfinite([float(v) for v in row.values()]).all() for row in rows)


def test_the_average_of_the_weights_is_not_the_last_weights(small, tmp_path):
    run = small.resumable(tmp_path)
    run._run_epoch()
    assert not equal(weights(run), run.descent.average)
    plain = small.resumable(tmp_path, ema_decay=0.0)
    plain._run_epoch()
    for name, value in weights(plain).items():
        torch.testing.assert_close(value, plain.descent.average[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("objective", ["mae", "mse", "gaussian_nll"])
def test_every_objective_lowers_the_error(small, tmp_path, objective):
    run = small.resumable(tmp_path, objective=objective, epochs=12, learning_rate=1e-2)
    run.fit()
    forces = column(run, "forces_mae")
    assert min(forces) < 0.6 * forces[0]


# -- BLIP ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ["adaptive", "constant"])
def test_the_kl_falls_towards_its_minimum_and_alpha_moves_inside_its_bounds(small, tmp_path, alpha):
    settings = {"alpha": alpha, "alpha_max": 0.1, "alpha_prior": 0.02, "alpha_initial": 0.005}
    rates = {"kl_weight": 1.0, "kl_warmup": 0.0, "inference_rate": 10.0}
    run = small.build(tmp_path, small.pairs(12), small.pairs(4, seed=1), settings, epochs=20, **rates)
    before = alphas(run)
    run.fit()
    after = alphas(run)
    minimum = 2 / (2 * 0.02)  # one term for atoms, one for pairs
    excess = np.array(column(run, "train_penalty")) - minimum
    assert (excess > 0).all()
    assert excess[-1] < 0.2 * excess[0]
    for was, now in zip(before, after, strict=True):
        torch.testing.assert_close(was.mean(), torch.tensor(0.005), rtol=0.1, atol=0)
        assert now.min() > 0
        assert now.max() < 0.1
        assert now.mean() > 2 * was.mean()
    spread = float(after.edge.std(dim=0).max() / after.edge.mean())
    assert (spread > 1e-4) == (alpha == "adaptive")


def test_the_weight_of_the_kl_decides_how_near_alpha_comes_to_its_prior(small, tmp_path):
    distance = []
    for weight in (0.0, 1.0):
        run = small.build(
            tmp_path / str(weight),
            small.pairs(12),
            small.pairs(4, seed=1),
            {},
            epochs=15,
            kl_weight=weight,
            inference_rate=5.0,
        )
        run.fit()
        distance.append(float((alphas(run).node / 0.02).log().abs().mean()))
    assert distance[1] < 0.5 * distance[0]


def test_the_local_mode_takes_its_steps(small, tmp_path):
    paper = {"mode": "local", "bound": "paper", "alpha_prior": 1.0, "alpha_initial": 0.5, "detach": True}
    run = small.build(tmp_path, small.pairs(12), small.pairs(4, seed=1), paper)
    before = weights(run)
    figures = run._run_epoch()
    assert np.isfinite(list(figures.values())).all()
    moved = {name for name, value in weights(run).items() if not torch.equal(value, before[name])}
    assert any("inference" in name for name in moved)
    assert any("backbone" in name for name in moved)


@pytest.mark.parametrize("train_draws", [1, 4])
def test_the_local_mode_trains(small, tmp_path, train_draws):
    paper = {"mode": "local", "bound": "paper", "alpha_prior": 1.0, "alpha_initial": 0.5, "detach": True}
    run = small.build(tmp_path, small.pairs(12), small.pairs(4, seed=1), paper, epochs=1, train_draws=train_draws)
    run.fit()
    assert np.isfinite(column(run, "score")).all()


@pytest.mark.parametrize("settings", [{}, {"alpha": "constant"}, {"bound": "paper"}, {"mode": "local"}], ids=str)
def test_a_noise_that_vanishes_in_float32_keeps_finite_gradients(small, tmp_path, monkeypatch, settings):
    """The sigmoid of -150 is 0 in float32; α has a floor, so that log α and 1/α² in the KL stay finite."""

    def vanished(folder):
        run = small.build(tmp_path / folder, small.pairs(8), small.pairs(2, seed=1), settings, kl_weight=1.0)
        assert torch.sigmoid(torch.tensor(-150.0)) == 0
        with torch.no_grad():
            for name, parameter in run.descent.parameters.items():
                if name.endswith(("inference.level", "inference.node.2.bias", "inference.edge.2.bias")):
                    parameter.fill_(-150.0)
        return run

    run = vanished("floor")
    assert all((part > 0).all() and (part < 1e-6).all() for part in alphas(run))
    figures = run._run_epoch()
    assert np.isfinite(list(figures.values())).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in run.model.inference.parameters())
    assert all(torch.isfinite(p).all() for p in run.descent.parameters.values())
    # positive control: without the floor the first step fails
    monkeypatch.setattr(inference, "P_MIN", 0.0)
    with pytest.raises(NonFiniteError, match="gradient is not finite at step 0"):
        vanished("none")._run_epoch()


def squared_z(small, run, frames) -> float:
    """Mean squared error of the mean force over the mean variance of 16 draws."""
    graph = Graph.collate([Graph.from_atoms(atoms, run.model.cutoff) for atoms in frames])
    draws = run.posterior.draw(16, generator=torch.Generator().manual_seed(0))
    forces = Evaluator(run.model, strategy="loop")(place_draws(run.model, draws), graph).forces.detach()
    labels = torch.from_numpy(np.concatenate([atoms.calc.results["forces"] for atoms in frames]))
    return float((forces.mean(0) - labels).square().mean() / forces.var(0).mean())


def test_the_proper_score_keeps_a_spread_that_matches_the_error_and_the_mae_does_not(small, tmp_path):
    """Noisy labels, no KL: single draws under the MAE shrink their noise, draws under the CRPS widen it."""
    found = {}
    for objective, draws in (("crps", 4), ("mae", 1)):
        run = small.build(
            tmp_path / objective,
            small.pairs(24, noise=0.3),
            small.pairs(4, seed=1, noise=0.3),
            {"alpha_max": 1.0, "alpha_prior": 0.2, "alpha_initial": 0.05},
            objective=objective,
            train_draws=draws,
            epochs=30,
            batch_size=8,
            kl_weight=0.0,
            inference_rate=1.0,
            learning_rate=1e-2,
        )
        run.fit()
        found[objective] = squared_z(small, run, small.pairs(40, seed=5, noise=0.3))
    assert 1 / 5 < found["crps"] < 5
    assert found["mae"] > 3 * found["crps"]


def test_the_proper_score_needs_several_draws(small, tmp_path):
    with pytest.raises(ConfigurationError, match="train_draws"):
        TrainConfig.of({"objective": "crps"})


# -- stopping and refusing ----------------------------------------------------------------------------------------------


def test_it_stops_after_epochs_without_a_better_validation(small, tmp_path):
    run = small.resumable(tmp_path, epochs=50, patience=3, learning_rate=1e-12, final_learning_rate=0.0, warmup_steps=0)
    run.fit()
    scores = column(run, "score")
    assert len(scores) == int(np.argmin(scores)) + 1 + 3 < 50
    assert last_checkpoint(tmp_path)[1]["epoch"] == len(scores)


def test_a_run_that_has_stopped_stays_stopped(small, tmp_path):
    settings = {"epochs": 50, "patience": 2, "learning_rate": 1e-12, "final_learning_rate": 0.0, "warmup_steps": 0}
    first = small.resumable(tmp_path, **settings)
    first.fit()
    rows = (tmp_path / "log.csv").read_text()
    again = small.resumable(tmp_path, **settings)
    again.fit()
    assert (tmp_path / "log.csv").read_text() == rows
    assert equal(weights(first), weights(again))


def test_a_gradient_that_is_not_finite_is_refused_and_the_checkpoint_stays(small, tmp_path):
    small.resumable(tmp_path, epochs=2).fit()
    before = last_checkpoint(tmp_path)[0]
    run = small.resumable(tmp_path, epochs=4)
    run.log.keep(2)
    real = run._step

    def broken(*arguments):
        step = real(*arguments)
        return step._replace(forces=step.forces * float("nan"))

    run._step = broken
    with pytest.raises(NonFiniteError, match=r"gradient is not finite at step 6.*lower learning_rate"):
        run.fit()
    after = last_checkpoint(tmp_path)[0]
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.isfinite(p).all() for p in run.descent.parameters.values())


def test_a_huge_learning_rate_ends_in_a_named_error(small, tmp_path):
    with pytest.raises(NonFiniteError, match="lower learning_rate"):
        small.resumable(tmp_path, learning_rate=1e12, warmup_steps=0).fit()


@pytest.mark.parametrize(
    "changed",
    [
        {"objective": "mse"},
        {"learning_rate": 1e-4},
        {"seed": 8},
        {"batch_size": 3},
        {"kl_weight": 0.5},
        {"dtype": "float64"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_changed_settings_are_refused_by_name(small, tmp_path, changed):
    small.resumable(tmp_path, epochs=1).fit()
    with pytest.raises(ConfigurationError, match=next(iter(changed))) as caught:
        small.resumable(tmp_path, epochs=2, **changed).fit()
    assert "another folder" in str(caught.value)


def test_longer_runs_and_other_patience_may_be_resumed(small, tmp_path):
    small.resumable(tmp_path, epochs=1).fit()
    run = small.resumable(tmp_path, epochs=2, patience=9, checkpoint_every=2)
    run.fit()
    assert column(run, "epoch") == [1, 2]


@pytest.mark.parametrize("other", ["sizes", "blip"])
def test_a_folder_of_another_model_is_refused_by_name(small, tmp_path, other):
    small.build(tmp_path, small.pairs(4), small.pairs(2, seed=1), epochs=1).fit()
    changed = {"sizes": {"features": 16}} if other == "sizes" else {"blip": {}}
    with pytest.raises(ConfigurationError, match="another network or other data"):
        small.build(tmp_path, small.pairs(4), small.pairs(2, seed=1), epochs=2, **changed).fit()


@pytest.mark.parametrize("other", ["frames", "labels", "order", "validation", "split"])
def test_a_folder_of_other_data_is_refused_by_name(small, tmp_path, other):
    frames = small.pairs(10)
    small.build(tmp_path, frames[:8], frames[8:], epochs=1).fit()
    train, validation = {
        "frames": (small.pairs(8, seed=3), frames[8:]),
        "labels": (small.pairs(8, noise=0.1), frames[8:]),
        "order": (frames[7::-1], frames[8:]),
        "validation": (frames[:8], small.pairs(2, seed=1)),
        "split": (frames[:7], frames[7:]),  # as from another validation fraction
    }[other]
    with pytest.raises(ConfigurationError, match="another network or other data"):
        small.build(tmp_path, train, validation, epochs=2).fit()


def test_fewer_frames_than_processes_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.Processes, "join", lambda device: trainer.Processes(0, 4, torch.device("cpu")))
    with pytest.raises(ConfigurationError, match="3 training frames for 4 processes"):
        small.build(tmp_path, small.pairs(3), small.pairs(2, seed=1))


def test_a_batch_smaller_than_the_number_of_processes_is_refused(small, tmp_path, monkeypatch):
    alone = trainer.Processes.join

    def four(device):
        return trainer.Processes(0, 4, alone(device).device)

    monkeypatch.setattr(trainer.Processes, "join", four)
    with pytest.raises(ConfigurationError, match="4 processes"):
        small.resumable(tmp_path, batch_size=3)


# -- resuming -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "importlib", small.without_events())
        run = small.resumable(folder)
        run.fit()
    return run


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Run folders that processes left behind when they were killed."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "killed", str(folder)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize(
    ("kill", "epochs_done"),
    [
        ("in the first epoch", None),
        ("in the third epoch", 2),
        ("at the first step of an epoch", 3),
        ("between two files", 2),
        ("between log and file", 3),
        ("before the first file", None),
        ("before the first save", None),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(small, whole, killed, kill, epochs_done):
    folder = killed / kill
    found = last_checkpoint(folder)
    assert (found and found[1]["epoch"]) == epochs_done
    assert found is None or found[2] == (kill != "between two files")
    run = small.resumable(folder)
    run.fit()
    assert equal(weights(run), weights(whole))
    assert equal(run.descent.average, whole.descent.average)
    assert run.best == whole.best
    assert (folder / "log.csv").read_text() == (whole.folder / "log.csv").read_text()
    again, other = read_sealed(folder / "checkpoint.safetensors"), read_sealed(whole.folder / "checkpoint.safetensors")
    assert equal(again[0], other[0])
    assert {**again[1], "seconds": None} == {**other[1], "seconds": None}  # what the clock says may differ
    assert not list(folder.glob(".*"))


def test_stopping_at_every_epoch_ends_in_the_same_bits(small, whole, tmp_path):
    """Five runs of one epoch each: what a job queue does."""
    for k in range(5):
        run = small.resumable(tmp_path)
        run.config = run.config.model_copy(update={"epochs": 5})
        original = run._out_of_patience
        run._out_of_patience = lambda run=run, k=k, original=original: run.epoch > k or original()
        run.fit()
    assert equal(weights(run), weights(whole))
    assert (tmp_path / "log.csv").read_text() == (whole.folder / "log.csv").read_text()


@pytest.mark.filterwarnings("ignore:passed over")
@pytest.mark.parametrize("damage", ["bit", "truncated", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(small, whole, tmp_path, damage):
    interrupted = small.resumable(tmp_path)
    interrupted._out_of_patience = lambda: interrupted.epoch >= 4
    interrupted.fit()
    newest = tmp_path / "checkpoint.safetensors"
    content = bytearray(newest.read_bytes())
    content[-100] ^= 4
    newest.write_bytes({"bit": bytes(content), "truncated": bytes(content[:-50]), "empty": b""}[damage])
    _, manifest, is_newest = last_checkpoint(tmp_path)
    assert (manifest["epoch"], is_newest) == (3, False)
    run = small.resumable(tmp_path)
    run.fit()
    assert equal(weights(run), weights(whole))
    assert (tmp_path / "log.csv").read_text() == (whole.folder / "log.csv").read_text()
    _, manifest, is_newest = last_checkpoint(tmp_path)
    assert (manifest["epoch"], is_newest) == (5, True)


def test_two_damaged_checkpoints_start_anew(small, tmp_path):
    small.resumable(tmp_path, epochs=2).fit()
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.warns(CheckpointWarning, match="passed over"):
        assert last_checkpoint(tmp_path) is None
    run = small.resumable(tmp_path, epochs=2)
    with pytest.warns(CheckpointWarning, match="passed over"):
        run.fit()
    assert column(run, "epoch") == [1, 2]


@pytest.mark.filterwarnings("ignore:passed over")
def test_a_damaged_checkpoint_never_replaces_the_whole_one(small, tmp_path, monkeypatch):
    interrupted = small.resumable(tmp_path)
    interrupted._out_of_patience = lambda: interrupted.epoch >= 3
    interrupted.fit()
    (tmp_path / "checkpoint.safetensors").write_bytes(b"damaged")
    before = last_checkpoint(tmp_path)[0]

    def full(*arguments):
        raise OSError(28, "No space left on device")

    run = small.resumable(tmp_path)
    monkeypatch.setattr(run_folder, "write_sealed", full)
    with pytest.raises(OSError, match="No space left"):
        run.fit()
    assert equal(last_checkpoint(tmp_path)[0], before)


# -- several processes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peers(small, tmp_path_factory) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Weights of two processes under torchrun, for each of the runs."""
    folder = tmp_path_factory.mktemp("peers")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(SCRIPT), "peers", str(folder)], env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in small.PEERS:  # one process writes
        assert len((folder / name / "log.csv").read_text().splitlines()) == 3
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ["equal", "unequal", "nll", "unequal nll", "unequal crps", "unequal blip"])
def test_two_processes_train_the_same_weights_as_one(small, peers, tmp_path, name):
    assert equal(peers[0][name], peers[1][name])
    alone = small.peer(name, tmp_path)
    for key, value in alone.items():
        torch.testing.assert_close(peers[0][name][key], value, rtol=0, atol=1e-12)


def test_processes_that_differ_by_rounding_decide_as_the_first(peers):
    """The first process improves at every epoch, the second at none: alone it would stop, and the other wait for ever."""
    assert peers[0]["undecided"]["epoch"] == 9
    assert equal(peers[0]["undecided"], peers[1]["undecided"])


# -- logs ---------------------------------------------------------------------------------------------------------------


def test_tensorboard_is_optional(tmp_path):
    log = RunLog(tmp_path)  # here as if it were not installed
    log.write({"epoch": 1, "score": 0.5})
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", "log.csv.sums"]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_events_are_written_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "importlib", SimpleNamespace(util=importlib.util))
    log = RunLog(tmp_path)
    log.write({"epoch": 1, "score": 0.5})
    log.close()
    events = list((tmp_path / "tensorboard").iterdir())
    assert len(events) == 1
    assert b"score" in events[0].read_bytes()


def test_a_log_drops_the_rows_that_a_resumed_run_writes_again(tmp_path):
    log = RunLog(tmp_path)
    for epoch in range(1, 5):
        log.write({"epoch": epoch, "score": 1 / epoch})
    before = (tmp_path / "log.csv").read_text()
    log.keep(2)
    assert [row["epoch"] for row in log.rows()] == ["1", "2"]
    for epoch in (3, 4):
        log.write({"epoch": epoch, "score": 1 / epoch})
    assert (tmp_path / "log.csv").read_text() == before
    log.keep(0)
    assert log.rows() == []


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    log = RunLog(tmp_path / "run", active=False)
    log.write({"epoch": 1, "score": 0.5})
    log.keep(0)
    log.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("torn", ["1", ""], ids=["kept", "raises"])
def test_a_torn_row_is_dropped(tmp_path, torn):
    log = RunLog(tmp_path)
    for epoch in range(1, 13):
        log.write({"epoch": epoch, "score": 1 / epoch})
    whole = (tmp_path / "log.csv").read_text()
    with (tmp_path / "log.csv").open("a") as stream:
        stream.write(torn + ("" if torn else ","))
    log.keep(12)
    assert (tmp_path / "log.csv").read_text() == whole
