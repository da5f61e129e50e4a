"""One writer at a time: files that two processes, or two threads, write to stay whole."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from typer.testing import CliRunner

from blipcalc import read, relax, run_md, write
from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.cli.main import app
from blipcalc.errors import FileBusyError, NoLockWarning, RunFolderBusyError
from blipcalc.files import locks
from blipcalc.files.checksums import inspect
from blipcalc.files.locks import adding, held
from blipcalc.monitor.decisions import Decision
from blipcalc.monitor.events import EventLog, read_events

FORK = multiprocessing.get_context("fork")


def holding(path, ready):
    with held(path):
        ready.send(True)
        ready.recv()


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path / "file"."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=holding, args=(tmp_path / "file", there))
    process.start()
    assert here.recv()
    yield process, here
    process.kill()
    process.join()


def test_a_second_process_is_refused_by_name_until_the_first_lets_go(tmp_path, holder):
    process, pipe = holder
    with pytest.raises(FileBusyError, match=r"somebody else writes to .*file"), held(tmp_path / "file"):
        pass
    pipe.send(True)
    process.join()
    with held(tmp_path / "file"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_goes_with_a_killed_process(tmp_path, holder):
    process, _ = holder
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert os.listdir(tmp_path) == [".file.lock"]
    for _ in range(3):
        with held(tmp_path / "file"):
            pass
    assert os.listdir(tmp_path) == []  # what it left behind is gone too


def test_it_waits_as_long_as_it_was_told(tmp_path, holder):
    _, pipe = holder
    threading.Timer(0.3, pipe.send, [True]).start()
    with held(tmp_path / "file", patience=60.0):
        pass


def test_links_and_other_names_of_a_file_are_that_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    monkeypatch.chdir(tmp_path)
    with held("file"):
        for name in ("link", tmp_path / "file", Path("..") / tmp_path.name / "file"):
            with pytest.raises(FileBusyError), held(name):
                pass
        with held("other"):
            pass


def test_threads_of_one_process_exclude_each_other_and_one_goes_on(tmp_path):
    """A run adds to a file that it holds; another thread waits, and is refused."""
    refused = []

    def other():
        try:
            with held(tmp_path / "file"):
                pass
        except FileBusyError as error:
            refused.append(error)

    with held(tmp_path / "file"), adding(tmp_path / "file"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with pytest.raises(FileBusyError), held(tmp_path / "file"):
            pass
    assert len(refused) == 1


def counting(path, n):
    for _ in range(n):
        with held(path, patience=60.0):
            value = int(path.read_text())
            time.sleep(1e-3)
            path.write_text(str(value + 1))


@pytest.mark.parametrize("is_locked", [True, False])
def test_nothing_is_lost_between_processes(tmp_path, monkeypatch, is_locked):
    """Each reads a number and writes one more; the lock file comes and goes all the while.  Without locks some are lost."""
    path = tmp_path / "number"
    path.write_text("0")
    if not is_locked:
        monkeypatch.setattr(locks, "fcntl", None)
    processes = [FORK.Process(target=counting, args=(path, 40)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if is_locked:
        assert path.read_text() == "120"
    else:
        assert path.read_text() != "120"


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def none(file, operation):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with (
        pytest.warns(NoLockWarning, match="without locks"),
        held(tmp_path / "file"),
        pytest.raises(FileBusyError),
        held(tmp_path / "file"),
    ):
        pass
    assert os.listdir(tmp_path) == []


def frame(k):
    return Atoms("ArNe", positions=np.random.default_rng(k).normal(size=(2, 3)), info={"k": k})


def appending(path, first, n):
    for k in range(first, first + n):
        write(path, frame(k), append=True, checksums=True)


@pytest.mark.parametrize("suffix", [".traj", ".extxyz"])
def test_two_processes_that_append_to_one_file_lose_nothing(tmp_path, suffix):
    path = tmp_path / f"labels{suffix}"
    processes = [FORK.Process(target=appending, args=(path, 100 * k, 15)) for k in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(atoms.info["k"] for atoms in read(path)) == [*range(15), *range(100, 115)]
    assert not any(name.endswith(".lock") for name in os.listdir(tmp_path))


def telling(path, first, n):
    decision = Decision(True, (0,), 1.0, 0.5, "eV/Å", "as a test", 0, True)

    class Dynamics:
        dt, nsteps = 1.0, 0

    for k in range(first, first + n):
        EventLog(path).write("warning", decision, frame(0), Dynamics(), k=k)


def test_events_of_two_processes_are_all_there(tmp_path):
    path = tmp_path / "events.jsonl"
    processes = [FORK.Process(target=telling, args=(path, 100 * k, 20)) for k in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(event["k"] for event in read_events(path)) == [*range(20), *range(100, 120)]
    assert inspect(path).is_whole


def springs():
    from ase.calculators.lj import LennardJones

    return BayesianCalculator(committee([LennardJones(sigma=3.4, epsilon=e) for e in (0.010, 0.012)]), raw=True)


def argon(folder, trajectory, seed=0, steps=60, **settings):
    atoms = Atoms("Ar3", positions=[[0, 0, 0], [3.8, 0, 0], [0, 3.8, 0]])
    atoms.calc = springs()
    return run_md(
        atoms, folder=folder, trajectory=trajectory, seed=seed, time_ps=steps / 1000, timestep_fs=1.0, threshold=1e6,
        write_every=2, progress=False, **settings,
    )[0]  # fmt: skip


def running(folder, trajectory, is_on, may_go_on):
    def stopping(dynamics):
        def observer():
            if dynamics.nsteps == 20:
                is_on.set()
                assert may_go_on.wait(timeout=120)

        return observer

    assert argon(folder, trajectory, observers=[stopping]).status == "finished"


@pytest.mark.parametrize("with_folders", [True, False])
def test_of_two_runs_with_one_trajectory_the_second_is_refused(tmp_path, with_folders):
    """The trajectory lies outside their folders; that of the run that goes on is whole."""
    trajectory, is_on, may_go_on = tmp_path / "shared.traj", FORK.Event(), FORK.Event()
    folders = [tmp_path / f"run-{k}" if with_folders else None for k in range(2)]
    process = FORK.Process(target=running, args=(folders[0], trajectory, is_on, may_go_on))
    process.start()
    assert is_on.wait(timeout=120)
    with pytest.raises(FileBusyError, match=r"writes to .*shared\.traj"):
        argon(folders[1], trajectory, seed=1)
    may_go_on.set()
    process.join()
    assert process.exitcode == 0
    assert inspect(trajectory).is_whole
    assert [atoms.info["step"] for atoms in read(trajectory)] == list(range(0, 61, 2))
    assert not any(name.endswith(".lock") for name in os.listdir(tmp_path))


def test_other_files_of_a_run_are_held_too(tmp_path):
    """Events and frames of breaches, wherever they lie; one that holds nothing any more is free."""
    for name, settings in {
        "breaches.traj": {"record_to": tmp_path / "breaches.traj"},
        "events.jsonl": {"events": tmp_path / "events.jsonl"},
    }.items():
        with held(tmp_path / name), pytest.raises(FileBusyError, match=name):
            argon(None, None, **settings)
        assert argon(None, None, **settings).status == "finished"


def test_who_adds_to_the_trajectory_of_a_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    trajectory, found = tmp_path / "run.traj", []

    def meddling(dynamics):
        def add():
            try:
                write(trajectory, frame(0), append=True)
            except FileBusyError as error:
                found.append(error)

        def observer():
            thread = threading.Thread(target=add)
            thread.start()
            thread.join()

        return observer

    argon(None, trajectory, steps=10, observers=[meddling])
    assert found
    assert len(read(trajectory)) == 6


def test_a_relaxation_holds_its_trajectory(tmp_path):
    def argon_pair():
        atoms = Atoms("Ar2", positions=[[0, 0, 0], [3.6, 0, 0]])
        atoms.calc = springs()
        return atoms

    with held(tmp_path / "path.traj"), pytest.raises(FileBusyError, match=r"path\.traj"):
        relax(argon_pair(), trajectory=tmp_path / "path.traj", error_bars=None)
    assert relax(argon_pair(), trajectory=tmp_path / "path.traj", error_bars=None).status == "converged"
    assert len(read(tmp_path / "path.traj")) > 1


def test_a_command_holds_its_folder(tmp_path):
    """A second one into the same folder is refused with the exit code of bad input, and touches nothing."""
    runner, folder = CliRunner(), tmp_path / "out"
    write(tmp_path / "start.xyz", Atoms("H2", positions=[[0, 0, 0], [0.75, 0, 0]]))
    arguments = ["relax", str(tmp_path / "start.xyz"), "--folder", str(folder), "--error-bars", "none"]
    folder.mkdir()
    (folder / "relaxation.json").write_text("{}")
    with held(folder):
        refused = runner.invoke(app, arguments)
    assert isinstance(refused.exception, RunFolderBusyError)
    assert (folder / "relaxation.json").read_text() == "{}"
    assert sorted(os.listdir(folder)) == ["relaxation.json"]


def test_a_run_that_was_killed_lets_go_of_its_files(tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import importlib.util
spec = importlib.util.spec_from_file_location("those", {__file__!r})
those = importlib.util.module_from_spec(spec); spec.loader.exec_module(those)
those.argon({str(tmp_path / "run")!r}, {str(tmp_path / "shared.traj")!r}, steps=10**6)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "shared.traj").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(FileBusyError):
            argon(None, tmp_path / "shared.traj")
    finally:
        process.kill()
        process.wait()
    assert argon(None, tmp_path / "shared.traj").status == "finished"
    assert sorted(os.listdir(tmp_path)) == ["run", "shared.traj", "shared.traj.sums"]
