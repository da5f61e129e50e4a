"""The audit of error bars against a reference that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet

from blipcalc.errors import CalibrationError, ConfigurationError, MonitorError
from blipcalc.monitor.audit import LabelAudit
from blipcalc.monitor.events import read_events


class Noisy(Calculator):
    """The forces of the scripted wells, off by Gaussian errors of a size that is known."""

    implemented_properties = ["forces"]

    def __init__(self, home, size, seed=0):
        super().__init__()
        self.home, self.size, self.rng, self.calls = home, size, np.random.default_rng(seed), 0

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        forces = -2.0 * (atoms.positions - self.home)
        self.results = {"forces": forces + self.rng.normal(0, self.size, forces.shape)}


#: of ‖(x, y, z)‖ of unit Gaussians
Q95 = 2.7955


def audited(scripted, calibration, size, noise=0, **settings):
    constants = replace(calibration(), q_atom={z: {0.95: Q95} for z in (1, 6, 8)})
    atoms = scripted([0.1], calibration=constants)
    reference = Noisy(atoms.calc.predictor.home, size, noise)
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    audit = LabelAudit(dynamics, reference, **{"share": 0.2, "spacing_ps": 0.0} | settings)
    dynamics.attach(audit, interval=1)
    return dynamics, audit, reference


@pytest.mark.chance(3)
def test_right_error_bars_are_found_right(scripted, calibration, tmp_path, chance):
    steps, tmp_path = chance.times(800), tmp_path / str(chance.stage)
    tmp_path.mkdir()
    settings = {"noise": chance.seed(), "seed": chance.seed(1), "confidence": 1 - chance.p, "halts": True}
    dynamics, audit, reference = audited(scripted, calibration, 0.1, events=tmp_path / "e", **settings)
    dynamics.run(steps)
    mean, low, high = audit.coverage
    assert (dynamics.nsteps, reference.calls) == (steps, len(audit.values))
    least, most = chance.counts(steps + 1, 0.2)
    assert least <= len(audit.values) <= most
    assert mean == pytest.approx(0.95, abs=chance.sigmas * np.sqrt(0.05 * 0.95 / (9 * len(audit.values))))
    assert low < 0.95 < high
    assert high - low < 0.2
    last = read_events(tmp_path / "e")[-1]
    assert (last["event"], last["step"], last["low"], last["value"]) == ("audit", audit.steps[-1], low, mean)


def test_error_bars_that_are_too_small_end_the_run(scripted, calibration):
    dynamics, audit, _ = audited(scripted, calibration, 0.2, halts=True)
    dynamics.run(800)
    assert dynamics.nsteps < 300
    assert audit.decision.breached
    assert audit.coverage[2] < 0.95
    # without leave to halt it says so and lets the run go on
    dynamics, audit, _ = audited(scripted, calibration, 0.2)
    dynamics.run(400)
    assert (dynamics.nsteps, audit.decision.breached) == (400, True)


def test_it_is_asked_at_the_same_steps_in_every_run_and_goes_on(scripted, calibration):
    dynamics, whole, _ = audited(scripted, calibration, 0.1)
    dynamics.run(200)
    dynamics, first, _ = audited(scripted, calibration, 0.1)
    dynamics.run(100)
    _, second, _ = audited(scripted, calibration, 0.1)
    second.restore(first.state())
    assert second.coverage == first.coverage
    assert first.steps == [s for s in whole.steps if s <= 100]
    _, other, _ = audited(scripted, calibration, 0.1, seed=1)
    other.dynamics.run(200)
    assert other.steps != whole.steps


def test_audited_checks_are_their_spacing_apart(scripted, calibration):
    """Of a coin that always falls so: every tenth step, after a checkpoint too; the control is the fixture's spacing of zero."""
    dynamics, audit, _ = audited(scripted, calibration, 0.1, share=1.0, spacing_ps=0.005)
    dynamics.run(34)
    assert audit.steps == [0, 10, 20, 30]
    dynamics, later, _ = audited(scripted, calibration, 0.1, share=1.0, spacing_ps=0.005)
    later.restore(audit.state())
    dynamics.nsteps = 34
    dynamics.run(20)
    assert later.steps == [0, 10, 20, 30, 40, 50]
    dynamics, every, _ = audited(scripted, calibration, 0.1, share=1.0)
    dynamics.run(5)
    assert every.steps == [0, 1, 2, 3, 4, 5]
    # with a fair coin too
    dynamics, fair, _ = audited(scripted, calibration, 0.1, share=0.5, spacing_ps=0.01)
    dynamics.run(400)
    assert np.diff(fair.steps).min() >= 20


def test_atoms_that_do_not_move_are_not_audited(scripted, calibration):
    dynamics, audit, _ = audited(scripted, calibration, 0.1, share=1.0)
    dynamics.atoms.set_constraint(FixAtoms(range(8)))
    dynamics.run(20)
    assert set(audit.values) <= {0.0, 1.0}
    dynamics.atoms.set_constraint(FixAtoms(range(9)))
    with pytest.raises(MonitorError, match="nothing to audit"):
        dynamics.run(1)


def test_what_cannot_be_audited_is_refused(scripted, calibration):
    atoms = scripted([0.1])
    with pytest.raises(CalibrationError, match="calibrated"):
        LabelAudit(VelocityVerlet(atoms, 1.0), atoms.calc)
    atoms = scripted([0.1], calibration=calibration())
    with pytest.raises(CalibrationError, match="no atom quantile"):
        LabelAudit(VelocityVerlet(atoms, 1.0), atoms.calc)
    with pytest.raises(ConfigurationError, match="share=0"):
        audited(scripted, calibration, 0.1, share=0)
