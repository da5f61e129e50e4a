"""Runs that are killed, stopped, halted, damaged: what goes on is the run that never ended, to the last bit."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
import warnings

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.core.prediction import SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.errors import (
    CheckpointWarning,
    ConfigurationError,
    DamagedFileError,
    NonFiniteError,
    RunFolderBusyError,
)
from blipcalc.files import run_folder
from blipcalc.files.checksums import SUFFIX, inspect
from blipcalc.files.json_file import read_json
from blipcalc.files.run_folder import NEWEST, alone
from blipcalc.io import read
from blipcalc.md import run_md as run_room
from blipcalc.md.integrators import IntegratorConfig, integrator, restore_variables, variables
from blipcalc.md.repair import repair_run
from blipcalc.md.run_md import EVENTS, HISTORY, SUMMARY, TRAJECTORY, run_md
from blipcalc.md.summary import RUN_SUMMARY
from blipcalc.model_file.model import Model
from blipcalc.monitor.actions import RollBack
from blipcalc.monitor.events import read_events
from blipcalc.monitor.run_criteria import EDetector, HaltRatio, SmoothedThreshold
from blipcalc.posteriors.blip import BlipPosterior

ENSEMBLES = IntegratorConfig.model_fields["ensemble"].annotation.__args__


class Springs(Predictor):
    """Three draws of anharmonic springs to the starting places; ``script(step)`` multiplies their spread."""

    species, n_draws, surface, has_stress, has_energies, heads = None, 3, "mean", False, False, "none"

    def __init__(self, home, script=None, pause=0.0):
        self.home, self.script, self.pause = home, script, pause

    def __call__(self, structures, need=Need()):
        time.sleep(self.pause)
        found = []
        for atoms in structures:
            d = atoms.positions - self.home
            spread = 0.1 if self.script is None else self.script(d)
            stiffness = 5.0 * (1.0 + spread * np.array([-1.0, 0.0, 1.0]))
            energy = stiffness * (0.5 * (d**2).sum() + 0.25 * (d**4).sum())
            forces = -stiffness[:, None, None] * (d + d**3)
            found.append(summarize(atoms.numbers, SampleArrays(energy=energy, forces=forces)))
        return found


def cube(script=None, pause=0.0):
    atoms = Atoms("N8", positions=np.argwhere(np.ones((2, 2, 2))) * 3.0)
    atoms.calc = BayesianCalculator(Springs(atoms.positions.copy(), script, pause), raw=True)
    return atoms


RUN = {"time_ps": 0.3, "timestep_fs": 1.0, "threshold": 10.0, "every": 5, "write_every": 10, "progress": False}


def finished(folder, atoms=None, **settings):
    atoms = cube() if atoms is None else atoms
    summary, monitor = run_md(atoms, folder=folder, **RUN | {"checkpoint_every": 17} | settings)
    return atoms, summary, monitor


def trace(folder):
    """Everything that a run leaves behind, but for times of the clock."""
    frames = read(folder / TRAJECTORY)
    found = {
        "steps": [frame.info["step"] for frame in frames],
        "positions": np.array([frame.positions for frame in frames]),
        "momenta": np.array([frame.get_momenta() for frame in frames]),
        "std": np.array([frame.calc.results["atom_std"] for frame in frames]),
        "draws": np.array([frame.calc.results["draw_deviations"] for frame in frames]),
        "history": (folder / HISTORY).read_text(),
        "events": read_events(folder / EVENTS) if (folder / EVENTS).exists() else [],
    }
    summary = read_json(folder / SUMMARY, RUN_SUMMARY)
    return found | {"summary": {k: v for k, v in summary.items() if k != "wall_seconds"}}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = np.array_equal(value, other[name]) if isinstance(value, np.ndarray) else value == other[name]
        assert same, name


class Stateless(Calculator):
    """Pair springs with a stress, made anew at every call: what NPT takes."""

    implemented_properties = ["energy", "forces", "stress"]

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        d = atoms.get_all_distances(mic=True, vector=True)
        r = np.linalg.norm(d, axis=-1) + np.eye(len(atoms))
        pull = 0.3 * (r - 3.0) * (r < 4.0)
        np.fill_diagonal(pull, 0.0)
        forces = (pull / r)[..., None] * d
        virial = 0.5 * np.einsum("ij,ijk,ijl->kl", pull / r, d, d) / atoms.get_volume()
        self.results = {
            "energy": 0.5 * float((0.15 * (r - 3.0) ** 2 * (r < 4.0) - 0.15 * 4.0 * np.eye(len(atoms))).sum()),
            "forces": forces.sum(axis=1),
            "stress": virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_every_integrator_goes_on_bit_for_bit(ensemble):
    """40 steps at once, and 20 + 20 in an integrator made anew; the control, without its variables and random numbers, is off."""

    def start():
        atoms = Atoms("Ar8", positions=np.argwhere(np.ones((2, 2, 2))) * 3.05, cell=[6.1] * 3, pbc=True)
        atoms.calc = Stateless()
        atoms.set_momenta(np.random.default_rng(0).normal(0, 2.0, (8, 3)))
        return atoms

    config = IntegratorConfig(ensemble=ensemble, timestep_fs=2.0, damping_fs=50.0, pressure_damping_fs=100.0)
    whole, rng = start(), np.random.default_rng(1)
    integrator(whole, config, 80.0, rng).run(40)
    half, rng = start(), np.random.default_rng(1)
    before = integrator(half, config, 80.0, rng)
    before.run(20)
    for complete in (True, False):
        again, stream = start(), np.random.default_rng(5)
        again.set_cell(half.cell)
        again.positions[:] = half.positions
        again.set_momenta(half.get_momenta())
        after = integrator(again, config, 80.0, stream)
        if complete:
            restore_variables(after, variables(before))
            stream.bit_generator.state = rng.bit_generator.state
        after.nsteps = 20
        after.run(20)
        same = np.array_equal(again.positions, whole.positions) and np.array_equal(again.cell, whole.cell)
        assert same == (complete or ensemble == "nve")


def test_variables_of_another_integrator_are_refused():
    atoms = cube()
    atoms.set_momenta(np.ones((8, 3)))
    rng = np.random.default_rng(0)
    nve, bussi = (integrator(atoms, IntegratorConfig(ensemble=e), 300.0, rng) for e in ("nve", "bussi"))
    with pytest.raises(ConfigurationError, match="another integrator: it lacks"):
        restore_variables(bussi, variables(nve))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    finished(folder)
    return trace(folder)


@pytest.mark.parametrize("parts", [(0.1,), (0.017, 0.018, 0.255)])
def test_a_run_in_parts_is_the_run(whole, tmp_path, parts):
    for time_ps in (*parts, 0.3):
        _, summary, _ = finished(tmp_path, time_ps=time_ps)
        assert summary.time_ps == pytest.approx(time_ps)
    assert_same(trace(tmp_path), whole)
    assert whole["steps"] == list(range(0, 301, 10))


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("step", [0, 1, 16, 17, 18, 119, 299])
def test_a_run_that_breaks_goes_on_from_its_last_checkpoint(whole, tmp_path, step, monkeypatch):
    original = run_room._Run._end_on_signal

    def breaks(self):
        if self.dynamics.nsteps == step:
            raise Interrupted
        original(self)

    monkeypatch.setattr(run_room._Run, "_end_on_signal", breaks)
    with pytest.raises(Interrupted):
        finished(tmp_path)
    monkeypatch.undo()
    finished(tmp_path)
    assert_same(trace(tmp_path), whole)


def child(folder, atoms, **settings):
    """The run in a process of its own; its number."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                finished(folder, atoms, **settings)
            code = 0
        finally:
            os._exit(code)
    return pid


def killed_until_done(folder, rng, least, **settings):
    """Kill the run at random times until it comes to its end; how often."""
    kills = 0
    while True:
        pid = child(folder, cube(pause=2e-4), **settings)
        if kills >= 3 * least:  # enough
            assert os.waitpid(pid, 0)[1] == 0
            return kills
        time.sleep(rng.uniform(0.0, 0.15))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status):
            assert status == 0
            return kills
        kills += 1


def test_kill_minus_nine_at_any_time(whole, tmp_path):
    """No frame twice, none missing, the same bits."""
    kills = killed_until_done(tmp_path, np.random.default_rng(0), 5, checkpoint_every=7)
    assert kills >= 3
    assert_same(trace(tmp_path), whole)


@pytest.mark.slow
def test_two_hundred_kills(tmp_path):
    rng, kills, runs = np.random.default_rng(1), 0, 0
    finished(tmp_path / "whole", time_ps=1.0)
    expected = trace(tmp_path / "whole")
    while kills < 200:
        folder = tmp_path / str(runs)
        kills += killed_until_done(folder, rng, 10, checkpoint_every=11, time_ps=1.0)
        assert_same(trace(folder), expected)
        runs += 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_a_whole_step(whole, tmp_path, number):
    pid = child(tmp_path, cube(pause=2e-3))
    time.sleep(0.4)
    os.kill(pid, number)
    assert os.waitpid(pid, 0)[1] == 0
    summary = json.loads((tmp_path / SUMMARY).read_text())
    assert summary["status"] == "stopped"
    assert 0 < summary["steps"] < 300
    finished(tmp_path)
    assert_same(trace(tmp_path), whole)


def test_handlers_are_those_of_before(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    finished(tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def far(d):
    """A spread that grows when an atom is more than 0.25 Å from home."""
    return 0.1 if np.linalg.norm(d, axis=1).max() < 0.25 else 5.0


def test_a_halted_run_stays_halted_until_it_is_told(tmp_path):
    settings = {"threshold": 2.0, "temperature_K": 900.0}
    _, summary, monitor = finished(tmp_path, cube(far), **settings)
    assert (summary.status, summary.is_finite) == ("halted", True)
    before = trace(tmp_path)
    assert before["steps"][-1] == summary.steps
    _, again, _ = finished(tmp_path, cube(far), **settings)
    assert (again.status, again.steps, again.reason) == (summary.status, summary.steps, summary.reason)
    assert_same(trace(tmp_path), before)
    _, gone_on, _ = finished(tmp_path, cube(far), go_on=True, **settings)
    assert gone_on.steps > summary.steps
    # the same as one that nobody left
    atoms = cube(far)
    other = tmp_path / "other"
    run = {**RUN, **settings, "checkpoint_every": 17}
    _, first, _ = finished(other, atoms, **settings)
    assert first.steps == summary.steps
    assert run["threshold"] == 2.0
    assert monitor.halts == [summary.steps]


def test_memories_of_the_rules_go_along(tmp_path):
    """Channels, the frame to go back to, and the count of returns: interrupted at every third check."""
    ratio = HaltRatio({"N": 1.0}, 1.0)

    def rules():
        return {
            "threshold": None,
            "criteria": [
                SmoothedThreshold(ratio, 4, 0.065),
                EDetector(ratio, np.random.default_rng(0).uniform(0, 0.07, 400), 2, 500.0),
            ],
            "on_breach": ["flag", RollBack(times=50)],
            "temperature_K": 400.0,
        }

    finished(tmp_path / "whole", **rules())
    expected = trace(tmp_path / "whole")
    assert any(event["event"] == "rollback" for event in expected["events"])
    for time_ps in (*np.arange(0.015, 0.3, 0.015), 0.3):
        finished(tmp_path / "parts", time_ps=float(time_ps), **rules())
    assert_same(trace(tmp_path / "parts"), expected)


def test_a_damaged_checkpoint_costs_some_steps(whole, tmp_path):
    finished(tmp_path, time_ps=0.1)
    content = bytearray((tmp_path / NEWEST).read_bytes())
    content[-5] ^= 4
    (tmp_path / NEWEST).write_bytes(bytes(content))
    with pytest.warns(CheckpointWarning, match="passed over"):
        finished(tmp_path)
    assert_same(trace(tmp_path), whole)


def test_a_full_disk_leaves_the_last_checkpoint(whole, tmp_path, monkeypatch):
    count, original = iter(range(100)), run_folder.write_sealed

    def full(*arguments):
        if next(count) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments)

    monkeypatch.setattr(run_folder, "write_sealed", full)
    with pytest.raises(OSError, match="No space"):
        finished(tmp_path)
    monkeypatch.undo()
    finished(tmp_path)
    assert_same(trace(tmp_path), whole)


def test_frames_are_on_the_disk_before_a_checkpoint_that_counts_on_them(tmp_path, monkeypatch):
    """No kill of a process tells, since its pages outlive it; a machine that loses power does: the order of calls is asked."""
    synced, counted, fsync, replace = set(), [], os.fsync, os.replace
    needed = [tmp_path / name for name in (TRAJECTORY, TRAJECTORY + SUFFIX, HISTORY)]

    def sync(descriptor):
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def rename(source, target):
        if os.path.basename(target) == NEWEST:
            counted.append(all(path.stat().st_ino in synced for path in needed))
            synced.clear()
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    finished(tmp_path, time_ps=0.1)
    assert counted == [True] * 6


def test_a_folder_belongs_to_one_run(tmp_path):
    finished(tmp_path, time_ps=0.05)
    moved = cube()
    moved.positions[0] += 1e-9
    with pytest.raises(ConfigurationError, match="another start"):
        finished(tmp_path, moved)
    fixed = cube()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigurationError, match="another start"):
        finished(tmp_path, fixed)
    with pytest.raises(ConfigurationError, match="other settings"):
        finished(tmp_path, timestep_fs=0.5)
    with alone(tmp_path), pytest.raises(RunFolderBusyError):
        finished(tmp_path)


def test_a_network_is_known_by_its_weights(make_blip, molecule, tmp_path):
    """Another seed of the draws is another potential."""
    network = make_blip()
    model = Model(network, BlipPosterior(network.slot_shapes()))

    def driven(seed):
        atoms = molecule.copy()
        atoms.calc = BayesianCalculator(model, n_draws=3, seed=seed, raw=True, device="cpu")
        return atoms

    settings = {"time_ps": 0.01, "timestep_fs": 0.5, "temperature_K": 50.0, "threshold": 1e6, "every": 1}
    finished(tmp_path, driven(0), **settings)
    finished(tmp_path, driven(0), **settings | {"time_ps": 0.02})
    with pytest.raises(ConfigurationError, match="another start"):
        finished(tmp_path, driven(1), **settings)
    finished(tmp_path / "whole", driven(0), **settings | {"time_ps": 0.02})
    assert_same(trace(tmp_path), trace(tmp_path / "whole"))


def test_another_environment_is_said(tmp_path, monkeypatch):
    finished(tmp_path, time_ps=0.05)
    monkeypatch.setattr("blipcalc.md.restart.torch.get_num_threads", lambda: 99)
    with pytest.warns(CheckpointWarning, match="statistically equivalent"):
        finished(tmp_path, time_ps=0.06)


def test_npt_needs_a_cell():
    with pytest.raises(ConfigurationError, match="periodic in three directions"):
        run_md(cube(), **RUN, ensemble="npt")
    with pytest.raises(ConfigurationError, match="course of temperatures"):
        run_md(cube(), **RUN, ensemble="nve", temperature_K=[(0, 300), (1, 400)])
    with pytest.raises(ConfigurationError, match="ensemble"):
        run_md(cube(), **RUN, ensemble="nvt")


@pytest.mark.parametrize("ensemble", ["langevin", "bussi"])
def test_a_course_of_temperatures_goes_on(tmp_path, ensemble):
    settings = {
        "ensemble": ensemble,
        "temperature_K": [(0.0, 100.0), (0.3, 2000.0)],
        "friction_per_fs": 0.1,
        "damping_fs": 10.0,
    }
    finished(tmp_path / "whole", **settings)
    for time_ps in (0.11, 0.3):
        atoms, _, _ = finished(tmp_path / "parts", time_ps=time_ps, **settings)
    assert_same(trace(tmp_path / "parts"), trace(tmp_path / "whole"))
    assert atoms.get_kinetic_energy() / (12 * units.kB) > 600


def test_forces_that_are_not_finite_end_the_run_by_name(tmp_path):
    """They are met within a step, before any check: a halt, a summary, the last whole checkpoint; and the same again."""
    calls = []

    def broken(d):
        calls.append(1)
        return 0.1 if len(calls) < 60 else np.nan

    for _ in range(2):
        _, summary, _ = finished(tmp_path, cube(broken))
        assert (summary.status, summary.is_finite) == ("halted", False)
        assert read_events(tmp_path / EVENTS)[-1]["event"] == "halt"
        assert json.loads((tmp_path / SUMMARY).read_text())["is_finite"] is False


def test_memories_and_thresholds_that_are_not_finite_are_kept(tmp_path):
    ratio = HaltRatio({"H": 1.0}, 1.0)  # nitrogen was never calibrated
    _, summary, _ = finished(tmp_path / "a", threshold=None, criteria=[SmoothedThreshold(ratio, 2, 1.0)])
    assert (summary.status, summary.is_finite) == ("halted", False)
    again = finished(tmp_path / "a", threshold=None, criteria=[SmoothedThreshold(ratio, 2, 1.0)])[1]
    assert (again.status, again.steps) == (summary.status, summary.steps)
    assert finished(tmp_path / "b", threshold={"N": np.inf})[1].status == "finished"


def test_a_run_that_halted_at_its_first_check_keeps_what_it_left(tmp_path):
    def displaced():
        atoms = cube()
        atoms.positions[0, 0] += 0.1
        return atoms

    for _ in range(3):
        _, summary, _ = finished(tmp_path, displaced(), threshold=1e-9)
        assert (summary.status, summary.steps) == ("halted", 0)
        assert [frame.info["step"] for frame in read(tmp_path / TRAJECTORY)] == [0]
        assert len(read_events(tmp_path / EVENTS)) == 1
    _, summary, _ = finished(tmp_path, displaced(), threshold=1e-9, go_on=True)
    assert summary.status == "finished"
    assert [frame.info["step"] for frame in read(tmp_path / TRAJECTORY)] == list(range(0, 301, 10))


def test_other_limits_are_another_run_unless_it_shall_go_on(tmp_path):
    finished(tmp_path, cube(far), threshold=2.0, temperature_K=900.0)
    with pytest.raises(ConfigurationError, match="other settings"):
        finished(tmp_path, cube(far), threshold=99.0, temperature_K=900.0)
    _, summary, _ = finished(tmp_path, cube(far), threshold=99.0, temperature_K=900.0, go_on=True)
    assert summary.status == "finished"


def test_recorded_frames_are_written_once(tmp_path, monkeypatch):
    original, record = run_room._Run._end_on_signal, tmp_path / "record.traj"
    settings = {"threshold": 0.08, "on_breach": ["record"], "record_to": record, "temperature_K": 600.0}

    def breaks(self):
        if self.dynamics.nsteps == 120:
            raise Interrupted
        original(self)

    finished(tmp_path / "whole", **settings)
    expected = [frame.info["breach_step"] for frame in read(record)]
    record.unlink()
    monkeypatch.setattr(run_room._Run, "_end_on_signal", breaks)
    with pytest.raises(Interrupted):
        finished(tmp_path / "run", **settings)
    monkeypatch.undo()
    finished(tmp_path / "run", **settings)
    assert [frame.info["breach_step"] for frame in read(record)] == expected
    assert len(expected) > 3


def test_a_signal_at_the_end_stops_nothing(tmp_path, monkeypatch):
    original = run_room._Run._end_on_signal

    def late(self):
        if self.dynamics.nsteps == 300:
            self._received(signal.SIGTERM)
        original(self)

    monkeypatch.setattr(run_room._Run, "_end_on_signal", late)
    assert finished(tmp_path)[1].status == "finished"


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_every_ensemble_goes_on_in_a_run(make_blip, molecule, tmp_path, ensemble):
    """A network in a periodic cell, watched, in one part and in three."""
    network = make_blip()
    model = Model(network, BlipPosterior(network.slot_shapes()))

    def driven():
        atoms = molecule.copy()
        atoms.set_cell([9.0, 8.0, 7.0])
        atoms.pbc = True
        atoms.calc = BayesianCalculator(model, n_draws=2, raw=True, device="cpu")
        return atoms

    settings = {"ensemble": ensemble, "timestep_fs": 0.25, "temperature_K": 100.0, "threshold": 1e6, "write_every": 4}
    for time_ps in (0.0015, 0.003, 0.005):
        finished(tmp_path / "parts", driven(), time_ps=time_ps, **settings)
    finished(tmp_path / "whole", driven(), time_ps=0.005, **settings)
    assert_same(trace(tmp_path / "parts"), trace(tmp_path / "whole"))


def test_further_observers_go_on_with_the_run(tmp_path):
    """One that remembers and one that does not; a run with others is refused."""

    class Counter:
        def __init__(self, dynamics):
            self.dynamics, self.seen = dynamics, []

        def __call__(self):
            self.seen.append(self.dynamics.nsteps)

        def state(self):
            return {"seen": list(self.seen)}

        def restore(self, state):
            self.seen = list(state["seen"])

    made, plain = [], []

    def counting(dynamics):
        made.append(Counter(dynamics))
        return made[-1]

    observers = [counting, lambda dynamics: lambda: plain.append(dynamics.nsteps)]
    for time_ps in (0.05, 0.1):
        finished(tmp_path, time_ps=time_ps, observers=observers)
    assert made[-1].seen == list(range(0, 101, 5)) == plain
    with pytest.raises(ConfigurationError, match="other ones"):
        finished(tmp_path, observers=observers[:1])


def test_what_is_not_finite_is_rolled_back_or_raised(tmp_path):
    """Once NaN within a step: with leave to roll back the run goes on to its end; without anybody who halts it is an error."""

    def once():
        calls = []

        def script(d):
            calls.append(1)
            return np.nan if len(calls) == 60 else 0.1

        return script

    _, summary, _ = finished(tmp_path / "back", cube(once()), on_breach=["rollback"])
    assert (summary.status, summary.steps) == ("finished", 300)
    assert [event["event"] for event in read_events(tmp_path / "back" / EVENTS)] == ["rollback", "passed"]
    with pytest.raises(NonFiniteError):
        finished(tmp_path / "flag", cube(once()), on_breach=["flag"])


def test_a_damaged_trajectory_is_refused_repaired_and_its_gap_is_owned(tmp_path):
    finished(tmp_path)
    path = tmp_path / TRAJECTORY
    n_frames = len(read(path))
    middle = inspect(path).parts[n_frames // 2]
    content = bytearray(path.read_bytes())
    content[(middle.start + middle.stop) // 2] ^= 16
    path.write_bytes(bytes(content))
    longer = {"time_ps": 0.4}
    with pytest.raises(DamagedFileError, match="blipcalc repair"):
        finished(tmp_path, **longer)
    assert [is_whole for is_whole, _ in repair_run(tmp_path, dry_run=True).values()].count(False) == 1
    repair_run(tmp_path)
    assert all(is_whole for is_whole, _ in repair_run(tmp_path).values())
    assert len(read(path)) == n_frames // 2
    with pytest.raises(DamagedFileError, match="fewer frames"):
        finished(tmp_path, **longer)
    finished(tmp_path, go_on=True, **longer)
    steps = [frame.info["step"] for frame in read(path)]
    assert steps == [*range(0, 10 * (n_frames // 2), 10), *range(310, 401, 10)]


def test_a_damaged_checkpoint_is_set_aside(tmp_path):
    finished(tmp_path)
    whole = trace(tmp_path)
    newest = tmp_path / NEWEST
    newest.write_bytes(newest.read_bytes()[:-3])
    assert [p.name for p, (is_whole, _) in repair_run(tmp_path).items() if not is_whole] == [NEWEST]
    assert not newest.exists()
    finished(tmp_path)
    for name, value in trace(tmp_path).items():
        assert np.array_equal(value, whole[name]) if isinstance(value, np.ndarray) else value == whole[name]


def test_a_torn_text_trajectory_goes_on(tmp_path):
    """A kill within the last line of a frame: its numbers still read, with fewer digits."""
    path = tmp_path / "run.xyz"
    finished(tmp_path, trajectory=path)
    whole = path.read_bytes()
    finished(tmp_path, trajectory=path, time_ps=0.5)
    longer = path.read_bytes()
    for name in (TRAJECTORY, HISTORY, EVENTS):
        assert not (tmp_path / name).exists() or name == HISTORY
    torn = longer[: len(whole) + 400]
    other = tmp_path / "other"
    finished(other, trajectory=other / "run.xyz")
    (other / "run.xyz").write_bytes(torn)  # behind what its sums know
    finished(other, trajectory=other / "run.xyz", time_ps=0.5)
    assert (other / "run.xyz").read_bytes() == longer


def test_files_of_another_run_are_not_emptied(tmp_path):
    record = {"on_breach": ["record"], "record_to": tmp_path / "all.traj", "threshold": 0.01, "time_ps": 0.05}
    finished(tmp_path / "a", **record)
    before = (tmp_path / "all.traj").read_bytes()
    with pytest.raises(ConfigurationError, match="there already"):
        finished(tmp_path / "b", **record)
    assert (tmp_path / "all.traj").read_bytes() == before
    finished(tmp_path / "a", **record)  # its own
    assert (tmp_path / "all.traj").read_bytes() == before


@pytest.mark.parametrize("lost", [TRAJECTORY, HISTORY])
def test_a_run_does_not_go_on_behind_what_is_gone(tmp_path, lost):
    finished(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(DamagedFileError, match="fewer frames, rows or events"):
        finished(tmp_path, time_ps=0.4)
    finished(tmp_path, time_ps=0.4, go_on=True)


def test_damage_behind_the_checkpoint_is_cut_off(tmp_path):
    """As a power loss leaves it: sums are on the disk, the frame that they are of is not."""
    whole = tmp_path / "whole"
    finished(whole)
    stopped = tmp_path / "stopped"
    atoms = cube()

    class EndsError(Exception):
        pass

    def end(dynamics):
        def observer():
            if dynamics.nsteps == 215:
                raise EndsError

        return observer

    with pytest.raises(EndsError):
        finished(stopped, atoms, observers=[end])
    path = stopped / TRAJECTORY
    last = inspect(path).parts[-1]
    content = bytearray(path.read_bytes())
    content[last.start : last.stop] = bytes(last.stop - last.start)
    path.write_bytes(bytes(content))
    finished(stopped, observers=[lambda dynamics: lambda: None])
    assert (stopped / TRAJECTORY).read_bytes() == (whole / TRAJECTORY).read_bytes()


def test_databases_record_without_checksums(tmp_path):
    folder = tmp_path / "run"
    summary = finished(folder, record_to=folder / "breaches.db", threshold=0.01, trajectory=folder / "t.db")[1]
    assert summary.status == "halted"
    assert len(read(folder / "breaches.db")) == 1
    assert len(read(folder / "t.db")) >= 1


def test_committees_of_other_members_are_other_runs(tmp_path):
    def atoms(sigma):
        found = Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]])
        members = [LennardJones(sigma=sigma, epsilon=e, rc=8.0) for e in (0.010, 0.011)]
        found.calc = BayesianCalculator(committee(members), raw=True)
        return found

    finished(tmp_path, atoms(3.4))
    with pytest.raises(ConfigurationError, match="another start"):
        finished(tmp_path, atoms(3.3), time_ps=0.4)
    finished(tmp_path, atoms(3.4), time_ps=0.4)


def test_a_structure_that_cannot_be_evaluated_halts_the_run_by_name(tmp_path):
    def meet(dynamics):
        def observer():
            if dynamics.nsteps == 50:
                dynamics.atoms.positions[1] = dynamics.atoms.positions[0]

        return observer

    atoms = Atoms("Ar3", positions=[[0, 0, 0], [3.8, 0, 0], [0, 3.8, 0]])
    members = [LennardJones(sigma=3.4, epsilon=e, rc=8.0) for e in (0.010, 0.011)]
    atoms.calc = BayesianCalculator(committee(members), raw=True)
    summary = finished(tmp_path, atoms, observers=[meet], fault_checks=())[1]
    assert summary.status == "halted"
    assert not summary.is_finite
    assert json.loads((tmp_path / SUMMARY).read_text())["reason"]
