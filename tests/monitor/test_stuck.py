"""A sensor that repeats itself while atoms move, and everything that only looks like one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.core.domain import Domain
from blipcalc.errors import ConfigurationError
from blipcalc.files.bundled import starting_structure
from blipcalc.monitor.decisions import Reading
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.monitor.run_criteria import SequentialCriterion
from blipcalc.monitor.stuck import StuckUncertainty


def reading(std, distance=None, positions=None, mask=None, forces=None):
    std = np.array(std, dtype=float)
    mask = np.ones(len(std), dtype=bool) if mask is None else np.array(mask)
    distance = None if distance is None else np.full(len(std), float(distance))
    forces = None if forces is None else np.broadcast_to(np.array(forces, dtype=float), (len(std), 3))
    return Reading(0, ("H",) * len(std), std, 0.0, mask, latent_distance=distance, positions=positions, forces=forces)


def breaches(rule, readings):
    return [rule(each).breached for each in readings]


def test_three_repetitions_while_the_environment_changes():
    moving = [1.0, 1.1, 1.2, 1.1, 1.3]
    assert breaches(StuckUncertainty(), [reading([0.1, 0.2], d) for d in moving]) == [False, False, False, True, True]
    assert breaches(StuckUncertainty(checks=1), [reading([0.1, 0.2], d) for d in moving[:2]]) == [False, True]
    decision = [rule(reading([0.1], d)) for rule in [StuckUncertainty(checks=1)] for d in (1.0, 1.1)][-1]
    assert (decision.halts, decision.value > decision.threshold, "stands still" in decision.reason) == (
        True,
        True,
        True,
    )


def test_one_atom_that_changes_by_one_bit_is_enough_to_pass():
    stds = [[0.1, 0.2], [0.1, 0.2], [0.1, 0.2], [0.1, np.nextafter(0.2, 1)], [0.1, np.nextafter(0.2, 1)]]
    rule = StuckUncertainty()
    assert not any(breaches(rule, [reading(s, 1 + 0.1 * k) for k, s in enumerate(stds)]))
    # atoms that do not count may change as they like
    masked = [reading([0.1, 0.2 + k], 1 + 0.1 * k, mask=[True, False]) for k in range(4)]
    assert breaches(StuckUncertainty(), masked)[-1]


def test_a_structure_that_stands_still_itself_is_none():
    assert not any(breaches(StuckUncertainty(), [reading([0.1, 0.2], 1.0)] * 20))
    # one that moves slowly does in the end: 1e-4 at each check
    slow = breaches(StuckUncertainty(), [reading([0.1, 0.2], 1 + 1e-4 * k) for k in range(60)])
    assert slow.index(True) in (32, 33, 34)


def test_forces_are_the_witness_where_there_is_no_distance():
    pushed = [reading([0.1, 0.2], forces=f) for f in (1.0, 1.1, 1.2, 1.1)]
    assert breaches(StuckUncertainty(), pushed) == [False, False, False, True]
    assert breaches(StuckUncertainty(by="forces"), pushed) == [False, False, False, True]
    # a distance that is known is asked first, and forces of atoms that do not count are not asked
    assert not any(
        breaches(StuckUncertainty(), [reading([0.1, 0.2], 1.0, forces=f) for f in (1.0, 1.1, 1.2, 1.3, 1.4)])
    )
    fixed = [[[1, 0, 0], [k, 0, 0]] for k in range(9)]
    assert not any(breaches(StuckUncertainty(), [reading([0.1, 0.2], mask=[True, False], forces=f) for f in fixed]))
    # neither a structure at rest, nor a molecule that is carried and turned, nor forces that cancel but for rounding
    assert not any(breaches(StuckUncertainty(), [reading([0.1, 0.2], forces=1.0)] * 20))
    turned = [[[np.cos(a), np.sin(a), 0], [0, 0, 1]] for a in np.linspace(0, 3, 20)]
    assert not any(breaches(StuckUncertainty(), [reading([0.1, 0.2], forces=f) for f in turned]))
    rounding = 1e-14 * np.random.default_rng(0).normal(size=(20, 2, 3))
    assert not any(breaches(StuckUncertainty(), [reading([0.0, 0.0], forces=f) for f in rounding]))


def test_what_cannot_be_known_is_no_breach():
    for silent in (reading([0.1]), reading([np.nan], 1.0), reading([0.1], np.nan), reading([0.1], 1.0, mask=[False])):
        assert not any(breaches(StuckUncertainty(), [silent] * 9))
    assert not any(breaches(StuckUncertainty(), [reading([0.1], mask=[False], forces=k) for k in range(9)]))
    with pytest.raises(ConfigurationError, match="distance, forces, positions"):
        StuckUncertainty(by="weights")
    with pytest.raises(ConfigurationError):
        StuckUncertainty(checks=0)


def test_positions_as_the_witness_do_not_take_a_drift_for_a_motion():
    atoms, rng = molecule("CH3CH2OH"), np.random.default_rng(0)
    std = np.linspace(0.1, 0.2, len(atoms))
    carried = [atoms.positions + np.array([k, 0, 0]) for k in range(9)]
    assert not any(breaches(StuckUncertainty(by="positions"), [reading(std, positions=x) for x in carried]))
    turned = []
    for _ in range(9):
        atoms.rotate(17, (1, 2, 3), center="COP")
        turned.append(reading(std, positions=atoms.positions.copy()))
    assert not any(breaches(StuckUncertainty(by="positions"), turned))
    shaken = [reading(std, positions=atoms.positions + rng.normal(0, 0.02, (9, 3))) for _ in range(4)]
    assert breaches(StuckUncertainty(by="positions"), shaken) == [False, False, False, True]


def test_it_goes_on_from_its_state():
    frames = [reading([0.1, 0.2], 1 + 0.1 * k) for k in range(4)]
    rule, other = StuckUncertainty(), StuckUncertainty()
    assert isinstance(rule, SequentialCriterion)
    breaches(rule, frames[:3])
    other.restore(json.loads(json.dumps(rule.state())))
    assert other(frames[3]).breached
    other.restore(StuckUncertainty().state())
    assert not other(frames[3]).breached


def described(atoms):
    """The calculator of a structure, with a latent distance: how far each atom is from the origin."""
    predictor = atoms.calc.predictor
    predictor.domain = Domain({}, {}, 1, {})
    predictor.latent_distances = lambda structures: [np.linalg.norm(a.positions, axis=1) for a in structures]
    atoms.calc = BayesianCalculator(predictor, raw=True)
    return atoms


def watched(atoms, steps, **settings):
    dynamics = VelocityVerlet(atoms, 2.0 * units.fs)
    monitor = UncertaintyMonitor(dynamics, threshold=0.5, every=2, **settings)
    dynamics.run(steps)
    return monitor


def test_md_is_halted_by_default_where_the_model_describes_its_atoms(scripted):
    monitor = watched(described(scripted([0.1], frozen=True)), 40)
    assert (monitor.status, monitor.dynamics.nsteps) == ("halted", 6)
    assert monitor.decision.is_hard
    assert "stands still" in monitor.decision.reason
    live = watched(described(scripted(lambda step: 0.1 + 1e-9 * step)), 40)
    assert live.status == "finished"
    # from the middle of the run on
    frozen = watched(described(scripted(lambda step: 0.1 + 1e-3 * min(step, 10), frozen=True)), 40)
    assert frozen.dynamics.nsteps in (16, 18)  # where the furthest atom turns round, a check is no motion
    # who gives faults gives all of them
    assert watched(described(scripted([0.1], frozen=True)), 40, fault_checks=()).status == "finished"
    assert watched(scripted([0.1], frozen=True), 40, fault_checks=()).status == "finished"
    still = watched(scripted([0.1], frozen=True), 40, fault_checks=(), criteria=[StuckUncertainty(by="positions")])
    assert still.dynamics.nsteps == 6


def test_md_is_halted_by_default_where_nothing_describes_the_atoms(scripted):
    monitor = watched(scripted([0.1], frozen=True), 40)
    assert (monitor.status, monitor.dynamics.nsteps) == ("halted", 6)
    assert monitor.decision.is_hard
    assert watched(scripted([0.1]), 40).status == "finished"
    resting = scripted([0.1], frozen=True)
    resting.positions = resting.calc.predictor.home.copy()
    assert watched(resting, 40).status == "finished"


def test_it_is_not_excused_and_goes_on_from_a_checkpoint(scripted):
    monitor = watched(described(scripted([0.1], frozen=True)), 5)
    again = UncertaintyMonitor(VelocityVerlet(monitor.atoms, 2.0 * units.fs), threshold=0.5, every=2)
    again.dynamics.nsteps = 5
    again.restore(*monitor.state())
    again.dynamics.run(10)
    assert (again.status, again.dynamics.nsteps) == ("halted", 6)
    again.resume()
    again.dynamics.run(10)
    assert (again.status, again.dynamics.nsteps) == ("halted", 8)
    old, arrays = monitor.state()
    del old["rules"]["still"]  # a checkpoint of before
    again.restore(old, arrays)


def test_a_network_never_stands_still():
    """Half a femtosecond between checks: nothing repeats itself."""
    atoms = starting_structure("ethanol")
    atoms.calc = BayesianCalculator("rmd17", n_draws=8)
    assert "latent_distance" in atoms.calc.implemented_properties
    dynamics = Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=300,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(0),
    )
    rule, counts = StuckUncertainty(), []
    monitor = UncertaintyMonitor(
        dynamics, threshold=100.0, criteria=[lambda r: counts.append(rule(r).value) or rule(r)]
    )
    dynamics.run(20)
    assert monitor.status == "finished"
    assert max(counts) == 0
