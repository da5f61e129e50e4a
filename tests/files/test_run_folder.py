"""The folder of a run: one process at a time, and what is left of it after a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch

from blipcalc.errors import CheckpointWarning, ConfigurationError, RunFolderBusyError
from blipcalc.files.run_folder import NEWEST, PREVIOUS, Checkpoints, State, alone


def made(folder, settings=None, identity="a"):
    return Checkpoints(folder, identity, settings or {"length": 1, "seed": 2}, {"length"})


def state(step):
    return State({"atoms": {"x": torch.full((3,), float(step), dtype=torch.float64)}}, {"step": step})


def test_two_generations_and_a_damaged_one(tmp_path):
    checkpoints = made(tmp_path)
    assert made(tmp_path).load() is None
    for step in (1, 2, 3):
        checkpoints.save(state(step))
    assert made(tmp_path).load().figures["step"] == 3
    content = (tmp_path / NEWEST).read_bytes()
    (tmp_path / NEWEST).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = made(tmp_path)
    with pytest.warns(CheckpointWarning, match="passed over"):
        found = again.load()
    assert found.figures["step"] == 2
    again.save(state(9))  # over the damaged one, the good one before it stays
    assert made(tmp_path).load().of("atoms")["x"].tolist() == [9.0] * 3
    (tmp_path / NEWEST).unlink()
    assert made(tmp_path).load().figures["step"] == 2
    (tmp_path / PREVIOUS).unlink()
    assert made(tmp_path).load() is None


def test_another_run_and_other_settings_are_refused(tmp_path):
    made(tmp_path).save(state(1))
    with pytest.raises(ConfigurationError, match="another network or other data"):
        made(tmp_path, identity="b").load()
    with pytest.raises(ConfigurationError, match=r'other settings: \{"seed": \[3, 2\]\}'):
        made(tmp_path, {"length": 1, "seed": 3}).load()
    assert made(tmp_path, {"length": 5, "seed": 2}).load().figures["step"] == 1


def hold(folder, ready):
    with alone(folder):
        ready.send(True)
        ready.recv()


def test_one_process_at_a_time(tmp_path):
    """A second is refused while the first lives, in this process too; one that was killed leaves nothing behind."""
    with alone(tmp_path / "run"), pytest.raises(RunFolderBusyError, match="another process"), alone(tmp_path / "run"):
        pass
    with alone(tmp_path / "run"):
        pass
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path / "run", there))
    process.start()
    assert here.recv()
    with pytest.raises(RunFolderBusyError), alone(tmp_path / "run"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with alone(tmp_path / "run"):
        pass
