"""MD that goes on with a reference method from a breach to the next check that passes."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.reference_on_demand import ReferenceOnDemand
from blipcalc.errors import CalibrationError, ConfigurationError, NonFiniteError
from blipcalc.io import read
from blipcalc.md.restart import identity
from blipcalc.md.run_md import EVENTS, HISTORY, TRAJECTORY, run_md
from blipcalc.monitor.actions import AskReference
from blipcalc.monitor.audit import LabelAudit
from blipcalc.monitor.decisions import Decision
from blipcalc.monitor.events import read_events
from blipcalc.monitor.observer import UncertaintyMonitor


class Counted(LennardJones):
    """Lennard-Jones argon that keeps the structures it was called for, and may fail."""

    def __init__(self, epsilon=0.0104, sigma=3.4, fail_at=None, nan_at=None):
        super().__init__(epsilon=epsilon, sigma=sigma, rc=12.0)
        self.seen, self.fail_at, self.nan_at = [], fail_at, nan_at

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        if len(self.seen) == self.fail_at:
            self.fail_at = None
            raise RuntimeError("the machine went down")
        super().calculate(atoms, properties, system_changes)
        self.seen.append(atoms.positions.copy())
        if self.nan_at is not None and len(self.seen) >= self.nan_at:
            self.results["forces"] = self.results["forces"] * np.nan


class Pairs(Calculator):
    """ε Σ (r/σ - 1)² over all pairs, made anew at each call: no neighbour list, so no history."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, epsilon, sigma=3.8, fail_at=None):
        super().__init__()
        self.parameters.update(epsilon=epsilon, sigma=sigma)
        self.fail_at, self.calls = fail_at, 0

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("the machine went down")
        epsilon, sigma = self.parameters["epsilon"], self.parameters["sigma"]
        d = self.atoms.positions[:, None] - self.atoms.positions[None]
        r = np.linalg.norm(d, axis=-1) + sigma * np.eye(len(d))
        self.results = {
            "energy": 0.5 * epsilon * float(((r / sigma - 1.0) ** 2).sum()),
            "forces": -2.0 * epsilon / sigma * (((r / sigma - 1.0) / r)[..., None] * d).sum(axis=1),
        }


def argon(reference=None, seed=1):
    atoms = Atoms("Ar8", positions=np.argwhere(np.ones((2, 2, 2))) * 3.75)
    model = BayesianCalculator(
        committee([Counted(e, s) for e, s in ((0.01, 3.35), (0.0105, 3.4), (0.011, 3.45))]), raw=True
    )
    atoms.calc = ReferenceOnDemand(model, Counted() if reference is None else reference)
    atoms.set_momenta(np.random.default_rng(seed).normal(0, 0.6, (8, 3)))
    return atoms


THRESHOLD = 0.0069


def run(atoms, steps=300, every=5, threshold=THRESHOLD, **settings):
    """What was active, and what acted on the atoms, after the observers of each step."""
    dynamics = VelocityVerlet(atoms, 4 * units.fs)
    settings = {"on_breach": "reference"} | settings
    monitor = UncertaintyMonitor(dynamics, threshold=threshold, every=every, **settings)
    trace = []

    def look():
        trace.append((atoms.calc.active, atoms.copy(), atoms.get_forces(), atoms.get_potential_energy()))

    dynamics.attach(look)
    dynamics.run(steps)
    return dynamics, monitor, trace


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """One run for several tests: atoms, monitor, trace, files."""
    folder = tmp_path_factory.mktemp("watched")
    atoms = argon()
    ask = AskReference(folder / "labels.traj")
    _, monitor, trace = run(atoms, events=folder / "events.jsonl", on_breach=["flag", ask])
    return atoms, monitor, trace, folder


def test_the_reference_drives_from_a_breach_to_the_next_check_that_passes(watched):
    atoms, monitor, trace, folder = watched
    breached = dict(zip(monitor.history["step"].tolist(), monitor.history["breached"].tolist(), strict=True))
    expected = ["reference" if breached[5 * (step // 5)] else "model" for step in range(301)]
    assert [active for active, *_ in trace] == expected
    switches = [s for s in range(1, 301) if expected[s] != expected[s - 1]]
    assert len(switches) >= 4
    assert monitor.status == "finished"
    # forces and energies are those of the one that is active
    fresh = {"reference": LennardJones(epsilon=0.0104, sigma=3.4, rc=12.0), "model": argon().calc.model}
    for active, frame, forces, energy in trace:
        np.testing.assert_allclose(forces, fresh[active].get_property("forces", frame), rtol=0, atol=1e-12)
        assert energy == pytest.approx(fresh[active].get_property("energy", frame), abs=1e-12)
    # one call for each structure from the breach to the check that passes, that one included
    called = {s for s in range(301) if expected[s] == "reference" or (s and expected[s - 1] == "reference")}
    assert len(atoms.calc.reference.seen) == len(called)
    assert all(
        np.array_equal(a, trace[s][1].positions) for a, s in zip(atoms.calc.reference.seen, sorted(called), strict=True)
    )
    events = [(e["event"], e["step"]) for e in read_events(folder / "events.jsonl")]
    wanted = []
    for s in ([0] if expected[0] == "reference" else []) + switches:
        wanted += [("reference", s)] if expected[s] == "reference" else [("passed", s), ("model", s)]
    assert events == wanted


def test_steps_in_between_are_those_of_a_run_with_the_reference_alone(watched):
    """And the control: a run with the model alone from the same frame is somewhere else."""
    _, _, trace, _ = watched
    active = [name for name, *_ in trace]
    begin = next(s for s in range(1, 301) if active[s] == "reference")
    end = next(s for s in range(begin, 301) if active[s] == "model")
    for calc, same in ((Counted(), True), (argon().calc.model, False)):
        alone = trace[begin][1].copy()
        alone.calc = calc
        VelocityVerlet(alone, 4 * units.fs).run(end - begin)
        assert np.allclose(alone.positions, trace[end][1].positions, rtol=0, atol=1e-10) == same
        assert np.allclose(alone.get_momenta(), trace[end][1].get_momenta(), rtol=0, atol=1e-10) == same


def test_without_a_breach_it_is_the_run_of_the_model():
    atoms, alone = argon(), argon()
    alone.calc = alone.calc.model
    run(atoms, steps=50, threshold=10.0)
    VelocityVerlet(alone, 4 * units.fs).run(50)
    assert np.array_equal(atoms.positions, alone.positions)
    assert atoms.calc.reference.seen == []


def test_a_switch_forgets_what_was_known():
    atoms = argon()
    calc = atoms.calc
    model, std = atoms.get_forces(), calc.get_property("atom_std", atoms)
    calc.switch("reference")
    assert calc.results == {}
    assert np.array_equal(atoms.get_forces(), calc.reference.get_property("forces", atoms))
    assert np.abs(atoms.get_forces() - model).max() > 1e-4
    assert np.array_equal(calc.get_property("atom_std", atoms), std)
    assert calc.get_property("from_reference", atoms) == 1.0
    calc.switch("model")
    assert np.array_equal(atoms.get_forces(), model)
    calc._active = "reference"  # the control: not through the switch, ASE's cache gives what it has
    assert np.array_equal(atoms.get_forces(), model)
    with pytest.raises(ConfigurationError, match="expected one of model, reference"):
        calc.switch("both")


def test_frames_of_breached_checks_are_recorded_with_labels_of_the_reference(watched):
    _, monitor, _, folder = watched
    frames = read(folder / "labels.traj")
    steps, breached = monitor.history["step"], monitor.history["breached"].astype(bool)
    assert [frame.info["breach_step"] for frame in frames] == steps[breached].tolist()
    reference = Counted()
    for frame in frames:
        assert frame.calc.get_property("from_reference", frame) == 1.0
        assert frame.calc.get_property("atom_std", frame).max() > THRESHOLD
        np.testing.assert_allclose(frame.get_forces(), reference.get_property("forces", frame), rtol=0, atol=1e-12)
        assert frame.get_potential_energy() == pytest.approx(reference.get_property("energy", frame), abs=1e-12)


def test_what_is_not_finite_and_faults_halt_all_the_same(watched):
    # a reference that is not finite never gets as far as the momenta; in a run that ends it, it halts
    for nan_at in (4, 6):
        atoms = argon(Counted(nan_at=nan_at))
        with pytest.raises(NonFiniteError, match=r"the reference that drives.*NaN or infinity for forces"):
            run(atoms, fault_checks=())
        assert np.isfinite(atoms.get_momenta()).all()
        summary, monitor = run_md(
            argon(Counted(nan_at=nan_at)), time_ps=1.2, timestep_fs=4.0, temperature_K=150.0, ensemble="nve", every=5,
            threshold=THRESHOLD, on_breach="reference", progress=False,
        )  # fmt: skip
        assert (summary.status, summary.is_finite) == ("halted", False)
        assert "the reference that drives" in monitor.decision.reason
        assert summary.steps < 300
    at = next(s for s, (active, *_) in enumerate(watched[2]) if active == "reference") + 2

    def fault(structure, step):
        return Decision(step == at, (), 1.0, 0.5, "", "a fault", step)

    dynamics, monitor, trace = run(argon(), fault_checks=[fault])
    assert (monitor.status, dynamics.nsteps, monitor.decision.reason) == ("halted", at, "a fault")
    assert trace[-1][0] == "reference"
    # beside a breach, at one check: the fault counts
    dynamics, monitor, trace = run(argon(), fault_checks=[lambda a, s: fault(a, s + 2)])
    assert (monitor.status, dynamics.nsteps, monitor.decision.reason) == ("halted", at - 2, "a fault")
    assert trace[-1][0] == "model"


def pairs(fail_at=None):
    atoms = Atoms("Ar8", positions=np.argwhere(np.ones((2, 2, 2))) * 3.75)
    model = BayesianCalculator(committee([Pairs(e) for e in (0.8, 1.0, 1.3)]), raw=True)
    atoms.calc = ReferenceOnDemand(model, Pairs(1.1, 3.9, fail_at))
    return atoms


def go(folder, atoms=None, time_ps=1.0, threshold=0.03):
    return run_md(
        pairs() if atoms is None else atoms, time_ps=time_ps, timestep_fs=2.0, temperature_K=150.0, threshold=threshold,
        every=5, write_every=5, checkpoint_every=8, progress=False, folder=folder, seed=3,
        on_breach=["flag", AskReference(folder / "labels.traj"), "halt"],
    )  # fmt: skip


def left(folder):
    found = {"history": (folder / HISTORY).read_text(), "events": read_events(folder / EVENTS)}
    for name in (TRAJECTORY, "labels.traj"):
        frames = read(folder / name)
        found |= {
            f"{name} steps": [f.info.get("step", f.info.get("breach_step")) for f in frames],
            f"{name} positions": np.array([f.positions for f in frames]),
            f"{name} forces": np.array([f.get_forces() for f in frames]),
            f"{name} std": np.array([f.calc.results["atom_std"] for f in frames]),
            f"{name} active": [f.calc.results["from_reference"] for f in frames],
        }
    return found


def assert_same(one, other):
    for name, value in one.items():
        assert np.array_equal(value, other[name]) if isinstance(value, np.ndarray) else value == other[name], name


def test_interrupted_and_killed_runs_go_on_bit_for_bit(tmp_path):
    summary, _ = go(tmp_path / "whole")
    expected = left(tmp_path / "whole")
    kinds = [event["event"] for event in expected["events"]]
    assert kinds.count("reference") >= 2
    assert kinds.count("model") >= 2
    assert 0 < sum(expected[f"{TRAJECTORY} active"]) < len(expected[f"{TRAJECTORY} active"])
    assert summary.status == "finished"
    for time_ps in (0.026, 0.1, 0.31, 0.42, 0.53, 0.75, 1.0):
        go(tmp_path / "parts", time_ps=time_ps)
    assert_same(left(tmp_path / "parts"), expected)
    for call in (3, 30):  # the reference fails once between two checkpoints, in the middle of its turn
        folder = tmp_path / f"killed{call}"
        with pytest.raises(RuntimeError, match="went down"):
            go(folder, pairs(fail_at=call))
        go(folder)
        assert_same(left(folder), expected)


def test_the_control_without_its_memory_is_another_run(tmp_path, monkeypatch):
    """Where a run that goes on has forgotten that the reference drove, it is not the same run."""
    go(tmp_path / "whole")
    expected = left(tmp_path / "whole")
    on = next(event["step"] for event in expected["events"] if event["event"] == "reference" and event["step"] > 0)
    monkeypatch.setattr(AskReference, "restore", lambda *args: None)
    go(tmp_path / "parts", time_ps=(on + 2) * 0.002)
    go(tmp_path / "parts")
    parts = left(tmp_path / "parts")
    assert not np.array_equal(parts[f"{TRAJECTORY} positions"], expected[f"{TRAJECTORY} positions"])


def test_what_cannot_be_is_refused():
    atoms = argon()
    with pytest.raises(ConfigurationError, match="for MD"):
        UncertaintyMonitor(BFGS(atoms, logfile=None), threshold=1.0, on_breach="reference")
    baoab = LangevinBAOAB(atoms, units.fs, temperature_K=100, T_tau=50 * units.fs, rng=np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match="accelerations of its own"):
        UncertaintyMonitor(baoab, threshold=1.0, on_breach="reference")
    on_demand = atoms.calc
    for calc in (on_demand.model, CombinedCalculator(on_demand, LennardJones())):
        atoms.calc = calc
        with pytest.raises(ConfigurationError, match="takes atoms with ReferenceOnDemand"):
            UncertaintyMonitor(VelocityVerlet(atoms, 1.0), threshold=1.0, on_breach=AskReference())
    with pytest.raises(ConfigurationError, match="second argument"):
        ReferenceOnDemand(LennardJones(), on_demand.model)
    atoms.calc = on_demand
    with pytest.raises(CalibrationError, match="ReferenceOnDemand"):
        LabelAudit(VelocityVerlet(atoms, 1.0), LennardJones())


def test_a_sum_goes_inside_and_folders_know_both_parts():
    def start(k):
        atoms = argon()
        atoms.calc = ReferenceOnDemand(CombinedCalculator(atoms.calc.model, Pairs(0.01)), Pairs(k))
        return atoms

    atoms = start(1.0)
    expected = argon().calc.model.get_property("forces", atoms) + Pairs(0.01).get_property("forces", atoms)
    np.testing.assert_allclose(atoms.get_forces(), expected, rtol=0, atol=1e-12)
    before = identity(atoms)
    atoms.calc.switch("reference")
    assert identity(atoms) == before == identity(start(1.0)) != identity(start(2.0))
