"""Faults of positions and momenta, and what is done about them in a run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from blipcalc.core.degrees_of_freedom import redraw
from blipcalc.core.domain import closest_distances
from blipcalc.errors import ConfigurationError, DataError, MonitorError
from blipcalc.monitor.actions import Record, RollBack
from blipcalc.monitor.events import read_events
from blipcalc.monitor.fault_checks import KineticJump, Leap, TooClose
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.monitor.run_criteria import HaltRatio, SmoothedThreshold


def verlet(atoms, timestep_fs=0.5):
    return VelocityVerlet(atoms, timestep_fs * units.fs)


def test_closest_distances_are_those_of_each_pair_of_elements():
    rng, frames = np.random.default_rng(0), []
    for _ in range(20):
        atoms = molecule("CH3OH")
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        frames.append(atoms)
    found = closest_distances(frames)
    assert list(found) == ["C-H", "C-O", "H-H", "H-O"]
    shortest = [a.get_all_distances()[0][a.numbers == 1].min() for a in frames]
    assert found["C-H"] == pytest.approx(np.quantile(shortest, 0.001), rel=1e-6)
    assert set(closest_distances([bulk("Cu", "fcc", a=3.6)])) == {"Cu-Cu"}  # its own image
    assert closest_distances([Atoms("H")]) == {}


def test_atoms_that_are_too_close_warn_and_halt():
    rule = TooClose({"H-O": 0.9, "H-H": 1.2})
    water = molecule("H2O")
    assert not rule(water, 0).breached
    for factor, halts in ((0.8, False), (0.4, True)):
        near = water.copy()
        near.set_distance(0, 1, 0.9 * factor, fix=0)
        decision = rule(near, 3)
        assert (decision.breached, decision.halts, set(decision.atoms), decision.step) == (True, halts, {0, 1}, 3)
        assert decision.value == pytest.approx(0.9 * factor)
    water.positions[0] = np.nan
    assert rule(water, 0).breached
    assert not rule(Atoms("N2", [[0, 0, 0], [0, 0, 0.1]]), 0).breached  # never seen: not watched


def test_of_several_pairs_the_one_furthest_below_its_limit_is_judged():
    """The shortest distance is no worse than a warning here; another one, longer but far below its own limit, is to halt."""
    rule = TooClose({"Ar-Ar": 3.0, "H-H": 1.2})
    decision = rule(Atoms("H2Ar2", [[0, 0, 0], [0, 0, 0.7], [9, 0, 0], [9, 0, 1.0]]), 0)
    assert (decision.breached, decision.halts, decision.atoms) == (True, True, (2, 3))
    assert (decision.value, decision.threshold) == (pytest.approx(1.0), 3.0)


def test_the_image_of_an_atom_counts():
    atoms = Atoms("OH", [[0.1, 5, 5], [9.6, 5, 5]], cell=[10, 10, 10], pbc=True)
    assert TooClose({"H-O": 0.9})(atoms, 0).breached
    atoms.pbc = False
    assert not TooClose({"H-O": 0.9})(atoms, 0).breached


@pytest.mark.parametrize("wrong", [{"O-H": 1.0}, {"H": 1.0}, {"H-Xx": 1.0}, {"H-O": 0.0}, {"H-O": math.nan}])
def test_senseless_distances_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        TooClose(wrong)


def test_a_leap_is_one_between_successive_steps():
    atoms, rule = molecule("H2O"), Leap(0.5)
    assert not rule(atoms, 0).breached
    atoms.positions[2, 1] += 0.6
    decision = rule(atoms, 1)
    assert (decision.breached, decision.atoms) == (True, (2,))
    atoms.positions[2, 1] += 0.6
    assert not rule(atoms, 7).breached  # another run
    atoms.positions[1, 0] = np.nan
    assert rule(atoms, 8).breached


def test_wrapping_is_no_leap():
    atoms, rule = Atoms("Ar", [[9.9, 1, 1]], cell=[10, 10, 10], pbc=True), Leap(0.5)
    rule(atoms, 0)
    atoms.positions[0, 0] = 0.1
    assert not rule(atoms, 1).breached
    atoms.positions[0, 0] = 3.0
    assert rule(atoms, 2).breached


def test_a_jump_of_the_kinetic_energy_in_units_of_its_deviation():
    atoms, rule = bulk("Cu", cubic=True).repeat(3), KineticJump(20.0, temperature_K=300.0)
    atoms.set_momenta(np.ones((len(atoms), 3)))
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    rule(atoms, 0)
    kt, freedom = 2 * atoms.get_kinetic_energy() / (3 * len(atoms)), 3 * len(atoms)
    sigma = max(kt, 300 * units.kB) * math.sqrt(freedom / 2)
    for deviations, breached in ((19.0, False), (21.0, True)):
        other, made = atoms.copy(), KineticJump()
        made(other, 0)
        wanted = atoms.get_kinetic_energy() + deviations * sigma
        other.set_momenta(atoms.get_momenta() * math.sqrt(wanted / atoms.get_kinetic_energy()))
        decision = made(other, 1)
        assert (decision.breached, decision.value) == (breached, pytest.approx(deviations, rel=1e-6))


def test_faults_halt_between_checks_and_the_control_runs_on(scripted):
    """The force of one step throws an atom away; without the faults the next check, far behind, would be the first to look."""

    def kicked(step, forces):
        return forces + 5000.0 * (step == 7)

    steps = []
    for fault_checks in (None, ()):
        atoms = scripted([0.1], forces=kicked)
        dynamics = verlet(atoms)
        monitor = UncertaintyMonitor(dynamics, threshold=0.5, every=100, fault_checks=fault_checks)
        dynamics.run(50)
        steps.append((monitor.status, dynamics.nsteps))
    assert steps[0][0] == "halted"
    assert 6 <= steps[0][1] <= 8
    assert steps[1] == ("finished", 50)


def test_good_md_has_no_faults():
    """Liquid-hot copper with 5 fs steps: half an ångström and 20 deviations are far away."""
    atoms = bulk("Cu", cubic=True).repeat(3)
    atoms.calc = EMT()
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, temperature_K=2000, rng=rng)
    dynamics = Langevin(atoms, 5 * units.fs, temperature_K=2000, friction=0.01 / units.fs, fixcm=False, rng=rng)
    leap, jump, values = Leap(), KineticJump(), []
    dynamics.attach(lambda: values.append([rule(atoms, dynamics.nsteps).value for rule in (leap, jump)]))
    dynamics.run(200)
    assert (np.max(values, axis=0) < [0.4, 5.0]).all()


def test_optimisers_may_leap(scripted):
    atoms = scripted([0.1])
    atoms.positions[0] += 3.0
    optimizer = BFGS(atoms, maxstep=0.9, logfile=None)
    monitor = UncertaintyMonitor(optimizer, threshold=0.5)
    optimizer.run(fmax=0.01, steps=50)
    assert monitor.status == "finished"


def test_events_are_lines_of_json(scripted, tmp_path):
    path = tmp_path / "deep" / "events.jsonl"
    atoms = scripted([0.1, 0.1, [0.9, *[0.1] * 8], 0.1, 0.1])
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.5, events=path)
    dynamics.run(10)
    assert monitor.halted
    dynamics.run(3)
    halt, passed = read_events(path)
    assert (halt["event"], halt["step"], halt["time_fs"], halt["atoms"], halt["symbols"]) == (
        "halt", 2, pytest.approx(1.0), [0], ["C"],
    )  # fmt: skip
    assert (halt["value"], halt["threshold"], halt["unit"]) == (pytest.approx(0.9), 0.5, "eV/Å")
    assert (passed["event"], passed["step"]) == ("passed", 3)


def test_events_hold_no_numbers_that_json_does_not_have(scripted, tmp_path):
    atoms = scripted([0.1, math.nan])
    dynamics = verlet(atoms)
    UncertaintyMonitor(dynamics, threshold=0.5, events=tmp_path / "e.jsonl")
    dynamics.run(5)
    (event,) = read_events(tmp_path / "e.jsonl")
    assert event["value"] is None


def test_a_line_cut_short_is_left_out_and_a_damaged_one_is_not(tmp_path):
    path = tmp_path / "e.jsonl"
    said = {"event": "halt", "step": 3, "time_fs": 1.5, "atoms": [0], "symbols": ["H"], "value": None, "threshold": 0.5}
    good = json.dumps(said | {"unit": "eV/Å", "reason": "too large"})
    path.write_text(f"{good}\n{good[:5]}")
    assert len(read_events(path)) == 1
    path.write_text(f"{good[:5]}\n{good}\n")
    with pytest.raises(DataError, match="line 1"):
        read_events(path)


def test_new_momenta_keep_energy_and_drift():
    atoms = molecule("CH3CH2OH")
    thermalize_momenta(atoms, temperature_K=500, rng=np.random.default_rng(0))
    before, energy = atoms.get_momenta(), atoms.get_kinetic_energy()
    redraw(atoms, np.random.default_rng(1))
    assert atoms.get_kinetic_energy() == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(atoms.get_momenta().sum(0), before.sum(0), atol=1e-12)
    assert np.abs(atoms.get_momenta() - before).max() > 0.1


def test_rolling_back_returns_to_the_last_check_that_passed(scripted, tmp_path):
    """Uncertain at step 6 once: back to step 4, and on from there with other momenta to the end."""
    atoms = scripted([0.1] * 6 + [0.9] + [0.1] * 50)
    dynamics, seen = verlet(atoms), {}
    monitor = UncertaintyMonitor(
        dynamics, threshold=0.5, every=2, on_breach=["flag", "rollback"], events=tmp_path / "e"
    )
    dynamics.attach(lambda: seen.setdefault(dynamics.nsteps, atoms.positions.copy()))
    dynamics.run(20)
    assert (monitor.status, dynamics.nsteps) == ("finished", 20)
    assert np.array_equal(seen[6], seen[4])
    assert [e["event"] for e in read_events(tmp_path / "e")] == ["rollback", "passed"]
    assert not np.allclose(seen[7], seen[5])


def test_rolling_back_again_and_again_ends_in_a_halt(scripted, tmp_path):
    atoms = scripted([0.1] * 3 + [0.9] * 99)
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.5, on_breach=RollBack(times=2), events=tmp_path / "e")
    dynamics.run(20)
    assert monitor.status == "halted"
    assert [e["event"] for e in read_events(tmp_path / "e")] == ["rollback", "rollback", "halt"]
    at_once = scripted([0.9])
    dynamics = verlet(at_once)
    monitor = UncertaintyMonitor(dynamics, threshold=0.5, on_breach="rollback")
    dynamics.run(5)
    assert (monitor.status, dynamics.nsteps) == ("halted", 0)
    with pytest.raises(ConfigurationError, match="rolling back is for MD"):
        UncertaintyMonitor(BFGS(at_once), threshold=0.5, on_breach="rollback")


def test_junk_is_not_recorded(scripted, tmp_path):
    """Beyond the ceiling, or not finite, nobody should label it."""
    path = tmp_path / "to_label.traj"
    atoms = scripted([0.1, 0.6, 0.1, 9.0, 0.1, math.nan])
    dynamics = verlet(atoms)
    UncertaintyMonitor(dynamics, threshold=0.5, on_breach=Record(path, ceiling=4.0))
    dynamics.run(5)
    assert [frame.info["breach_step"] for frame in read(path, ":")] == [1]


def test_lennard_jones_that_explodes_is_stopped():
    """A pair pushed to a tenth of σ: within a step or two, long before positions are no numbers."""
    atoms = Atoms("Ar4", [[0, 0, 0], [3.8, 0, 0], [0, 3.8, 0], [0, 0, 3.8]])
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=20.0)
    atoms.positions[1, 0] = 0.8
    leap, alarms = Leap(), []
    dynamics = verlet(atoms, 1.0)
    dynamics.attach(lambda: alarms.append(leap(atoms, dynamics.nsteps).breached))
    dynamics.run(5)
    assert alarms.index(True) <= 2


def test_a_dead_sensor_is_found_before_the_run(scripted):
    """A constant σ; a σ that answers to the structure passes, and nothing is left of the test."""
    with pytest.raises(MonitorError, match="does not answer"):
        UncertaintyMonitor(verlet(scripted([0.1])), threshold=0.5, self_test=True)
    # one that is no number is left to the first check, which says why it halts
    dynamics = verlet(scripted([math.nan]))
    without_number = UncertaintyMonitor(dynamics, threshold=0.5, self_test=True)
    dynamics.run(5)
    assert (without_number.status, dynamics.nsteps) == ("halted", 0)
    alive = scripted(lambda step: 0.1 + 0.01 * step)
    before = alive.positions.copy()
    monitor = UncertaintyMonitor(verlet(alive), threshold=0.5, self_test=True)
    assert np.array_equal(alive.positions, before)
    assert monitor.status == "ready"
    UncertaintyMonitor(verlet(scripted([0.1])), threshold=0.5)


@pytest.mark.parametrize("kind", [NoseHooverChainNVT, LangevinBAOAB])
def test_integrators_with_a_structure_of_their_own_are_not_rolled_back(scripted, kind):
    atoms = scripted([0.1])
    atoms.set_momenta(np.ones((len(atoms), 3)))
    if kind is LangevinBAOAB:
        dynamics = kind(atoms, 0.5 * units.fs, temperature_K=300, T_tau=50 * units.fs, rng=np.random.default_rng(0))
    else:
        dynamics = kind(atoms, 0.5 * units.fs, temperature_K=300, tdamp=50 * units.fs)
    with pytest.raises(ConfigurationError, match="of its own"):
        UncertaintyMonitor(dynamics, threshold=0.5, on_breach="rollback")


def test_new_momenta_keep_the_energy_of_atoms_that_move():
    atoms = molecule("CH3CH2OH")
    atoms.set_constraint(FixAtoms(range(5)))
    thermalize_momenta(atoms, temperature_K=500, rng=np.random.default_rng(0))
    energy = atoms.get_kinetic_energy()
    redraw(atoms, np.random.default_rng(1))
    assert atoms.get_kinetic_energy() == pytest.approx(energy, rel=1e-12)


def test_rolling_back_takes_the_memory_of_the_rules_along(scripted):
    """One wild check: a mean over four that still held it would roll back again and again."""
    ratio = HaltRatio({"C": 1.0, "H": 1.0, "O": 1.0}, 1.0)
    atoms = scripted([0.1] * 8 + [50.0] + [0.1] * 50)
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, criteria=[SmoothedThreshold(ratio, 4, 0.3)], on_breach=RollBack(times=1))
    dynamics.run(30)
    assert monitor.status == "finished"
