"""The monitor on ASE's dynamics and optimisers."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms, FixCartesian, FixedPlane
from ase.filters import Filter, FrechetCellFilter
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.optimize.ode import ODE12r
from ase.optimize.sciopt import SciPyFminBFGS, SciPyFminCG

from blipcalc import io
from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.errors import CalibrationError, ConfigurationError, MonitorError, NonFiniteError, UnknownKeyError
from blipcalc.monitor.criteria import AtomFraction, EnergyStdPerAtom, MaxAtomStd
from blipcalc.monitor.observer import UncertaintyMonitor


def verlet(atoms, **settings):
    return VelocityVerlet(atoms, 0.5 * units.fs, **settings)


def langevin(atoms, seed=3, **settings):
    return Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=300,
        friction=0.02 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(seed),
        **settings,
    )


def spike(at, n=100, low=0.1, high=0.9):
    return [high if i == at else low for i in range(n)]


def test_runs_through_when_certain(scripted):
    dynamics = verlet(scripted([0.1]))
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    assert monitor.status == "ready"
    dynamics.run(5)
    assert monitor.status == "finished"
    assert not monitor.halted
    assert monitor.history["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert not monitor.decision.breached


def test_halts_in_the_step_that_breaches(scripted):
    atoms = scripted(spike(4))
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(50)
    assert dynamics.nsteps == 4
    assert (monitor.status, monitor.halted, monitor.halts) == ("halted", True, [4])
    assert monitor.decision.step == 4
    assert monitor.decision.value == pytest.approx(0.9)
    assert atoms.calc.predictor.step == 4


def test_step_zero_is_checked(scripted):
    dynamics = verlet(scripted([0.9]))
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(50)
    assert dynamics.nsteps == 0
    assert monitor.halted


@pytest.mark.parametrize("script", [spike(3, high=math.nan), spike(3, high=math.inf)])
def test_nan_stops_in_the_same_step(scripted, script):
    dynamics = verlet(scripted(script))
    monitor = UncertaintyMonitor(dynamics, threshold=1e6)
    dynamics.run(50)
    assert dynamics.nsteps == 3
    assert monitor.halted
    monitor.resume()
    dynamics.run(2)
    assert dynamics.nsteps == 5


def test_positive_control_a_plain_observer_runs_on_with_nan(scripted):
    atoms = scripted([0.1, 0.1, *[math.nan] * 50])
    dynamics = verlet(atoms)

    def naive():
        if atoms.calc.get_property("atom_std", atoms).max() > 0.3:
            dynamics.max_steps = dynamics.nsteps

    dynamics.attach(naive)
    dynamics.run(20)
    assert dynamics.nsteps == 20


def test_forces_that_are_not_finite_stop_the_run(scripted):
    def broken(step, forces):
        return forces * np.nan if step >= 3 else forces

    dynamics = verlet(scripted([0.1], forces=broken))
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(50)
    assert dynamics.nsteps == 3
    assert "forces not finite" in monitor.decision.reason
    monitor.resume()
    dynamics.run(10)  # what is not finite halts even when the user goes on knowingly
    assert dynamics.nsteps == 4
    assert monitor.halted


def test_draws_that_break_at_a_check_stop_the_run(scripted):
    def script(step):
        if step == 4:
            raise NonFiniteError("forces on atoms [2] are not finite")
        return 0.1

    atoms = scripted(script, surface="centre")
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(50)
    assert dynamics.nsteps == 4
    assert "atoms [2]" in monitor.decision.reason
    assert np.isfinite(atoms.get_forces()).all()


@pytest.mark.parametrize("make", [verlet, langevin])
def test_the_frame_that_tripped_is_the_last_frame_written(scripted, tmp_path, make):
    atoms = scripted(spike(4))
    dynamics = make(atoms, trajectory=tmp_path / "md.traj", logfile=tmp_path / "md.log")
    monitor = UncertaintyMonitor(
        dynamics, threshold=0.3, on_breach=["record", "halt"], record_to=tmp_path / "breach.traj", annotate=True
    )
    dynamics.run(50)
    frames = ase.io.read(tmp_path / "md.traj", ":")
    assert len(frames) == 5
    assert np.array_equal(frames[-1].positions, atoms.positions)
    assert [f.info["blip_atom_std"].max() for f in frames] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.9])
    (recorded,) = io.read(tmp_path / "breach.traj")
    assert np.array_equal(recorded.positions, atoms.positions)
    assert np.array_equal(recorded.calc.get_property("atom_std", recorded), atoms.calc.get_property("atom_std", atoms))
    assert np.array_equal(recorded.get_momenta(), atoms.get_momenta())
    assert (recorded.info["breach_step"], recorded.info["breach_atom"]) == (4, 0)
    assert recorded.info["breach_reason"] == monitor.decision.reason
    assert len((tmp_path / "md.log").read_text().splitlines()) == 6


def test_positive_control_an_attached_annotator_is_one_frame_late(scripted, tmp_path):
    atoms = scripted([0.1])
    dynamics = verlet(atoms, trajectory=tmp_path / "md.traj")
    dynamics.attach(lambda: atoms.info.update(step=dynamics.nsteps))
    dynamics.run(3)
    assert [f.info.get("step") for f in ase.io.read(tmp_path / "md.traj", ":")] == [None, 0, 1, 2]


def test_annotations_belong_to_their_own_frame(scripted, tmp_path):
    atoms = scripted([0.1])
    atoms.info["mine"] = "kept"
    dynamics = verlet(atoms, trajectory=tmp_path / "md.traj")
    monitor = UncertaintyMonitor(dynamics, threshold=0.3, every=2, annotate=True)
    dynamics.run(4)
    frames = io.read(tmp_path / "md.traj")
    held = ["atom_std" in f.calc.implemented_properties for f in frames]
    assert held == [True, False, True, False, True]
    assert all(f.info == {"mine": "kept"} for f in frames)
    assert len(atoms.calc.predictor.needs) == 5  # writing into info made nothing recompute
    monitor.detach()
    assert atoms.info == {"mine": "kept"}
    assert all(function is not monitor for function, *_ in dynamics.observers)


@pytest.mark.parametrize("make", [verlet, langevin])
def test_halt_and_resume_is_the_uninterrupted_run(scripted, make):
    plain, halted = scripted([0.1]), scripted(spike(7))
    make(plain).run(20)
    dynamics = make(halted)
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(20)
    assert dynamics.nsteps == 7
    monitor.resume()
    assert monitor.status == "running"
    dynamics.run(13)
    assert monitor.status == "finished"
    assert np.array_equal(plain.positions, halted.positions)
    assert np.array_equal(plain.get_momenta(), halted.get_momenta())
    assert monitor.history["step"].tolist() == list(range(21))


def test_a_breach_that_lasts(scripted):
    dynamics = verlet(scripted([0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.9]))
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(20)
    assert dynamics.nsteps == 2
    dynamics.run(20)  # without a word: each check decides for itself
    assert dynamics.nsteps == 3
    monitor.resume()
    dynamics.run(20)  # knowingly: until a check has passed (5) and the next fails (6)
    assert dynamics.nsteps == 6
    assert monitor.halts == [2, 3, 6]
    assert monitor.history["breached"].tolist() == [False, False, True, True, True, False, True]


def test_a_run_that_goes_on_at_step_zero(scripted, tmp_path):
    dynamics = verlet(scripted(spike(0)))
    monitor = UncertaintyMonitor(dynamics, threshold=0.3, record_to=tmp_path / "x.traj")
    dynamics.run(5)
    dynamics.run(5)
    assert dynamics.nsteps == 0
    assert len(io.read(tmp_path / "x.traj")) == 1
    monitor.resume()
    dynamics.run(5)
    assert dynamics.nsteps == 5
    assert monitor.history["step"].tolist() == [0, 1, 2, 3, 4, 5]


def test_irun_is_halted_too(scripted):
    dynamics = verlet(scripted(spike(3)))
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    assert len(list(dynamics.irun(30))) == 4
    assert monitor.halted


@pytest.mark.parametrize("constraint", [FixAtoms([2]), FixCartesian([2]), [FixAtoms([0]), FixAtoms([2])]])
def test_fixed_atoms_are_not_watched(scripted, constraint):
    atoms = scripted(lambda step: np.where(np.arange(9) == 2, math.nan, 0.1))
    atoms.set_constraint(constraint)
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(3)
    assert monitor.status == "finished"
    assert monitor.history["max_atom_std"] == pytest.approx(0.1)


@pytest.mark.parametrize("constraint", [FixCartesian([2], (True, True, False)), FixedPlane(2, (0, 0, 1))])
def test_atoms_that_can_move_in_one_direction_are_watched(scripted, constraint):
    atoms = scripted(lambda step: np.where(np.arange(9) == 2, 0.9, 0.1))
    atoms.set_constraint(constraint)
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(3)
    assert monitor.halted
    assert monitor.decision.atoms == (2,)


def test_everything_fixed(scripted):
    atoms = scripted([math.nan])
    atoms.set_constraint(FixAtoms(range(9)))
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(2)
    assert monitor.status == "finished"
    assert monitor.history["worst_atom"].tolist() == [-1, -1, -1]
    assert np.isnan(monitor.history["temperature_K"]).all()


def test_draws_are_evaluated_at_checks_only(scripted):
    atoms = scripted([0.1], surface="centre")
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.3, every=5)
    dynamics.run(20)
    predictor = atoms.calc.predictor
    assert predictor.variances_at == [0, 5, 10, 15, 20]
    assert sum(need.variance for need in predictor.needs) == 5
    assert monitor.history["step"].tolist() == [0, 5, 10, 15, 20]


def test_one_evaluation_per_step_on_the_mean_surface(scripted):
    atoms = scripted([0.1])
    dynamics = verlet(atoms)
    UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(10)
    assert len(atoms.calc.predictor.needs) == 11


def test_calibrated_tolerance(scripted, calibration):
    script = np.linspace(0.1, 0.4, 31)
    dynamics = verlet(scripted(script, calibration=calibration(q=2.0)))
    monitor = UncertaintyMonitor(dynamics, tolerance=0.5)
    assert monitor.limit == 0.25
    dynamics.run(100)
    assert dynamics.nsteps == 16  # 2 · 0.26 > 0.5, 2 · 0.25 is not
    assert monitor.decision.value == pytest.approx(0.52)


def test_an_element_never_calibrated_halts_by_name(scripted, calibration):
    dynamics = verlet(scripted([0.1], calibration=calibration(elements=(1, 6))))
    monitor = UncertaintyMonitor(dynamics, tolerance=0.5)
    dynamics.run(10)
    assert dynamics.nsteps == 0
    assert "O was never calibrated" in monitor.decision.reason


def test_the_rule_follows_a_new_calculator(scripted, calibration):
    atoms = scripted([0.2], calibration=calibration(q=2.0))
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, tolerance=0.5)
    dynamics.run(2)
    atoms.calc = scripted([0.2], calibration=calibration(q=4.0)).calc
    dynamics.run(2)
    assert monitor.limit == 0.125
    assert monitor.halts == [3]


def test_rules_together(scripted):
    for criterion, unit in ((EnergyStdPerAtom(0.001), "eV/atom"), (AtomFraction(0.05, 0.5), "of the atoms")):
        dynamics = verlet(scripted([0.1]))
        monitor = UncertaintyMonitor(dynamics, threshold=0.3, criteria=[criterion])
        dynamics.run(3)
        assert monitor.halted
        assert monitor.decision.unit == unit


def test_thresholds_of_elements(scripted):
    dynamics = verlet(scripted(lambda step: np.where(np.arange(9) == 2, 0.2, 0.1)))
    monitor = UncertaintyMonitor(dynamics, threshold={"H": 0.5, "C": 0.5, "O": 0.15})
    dynamics.run(3)
    assert monitor.decision.atoms == (2,)
    assert monitor.limit is None


def test_actions(scripted, tmp_path, caplog):
    seen = []
    dynamics = verlet(scripted([0.1, 0.9, 0.9, 0.1, 0.9, 0.1]))
    monitor = UncertaintyMonitor(
        dynamics,
        threshold=0.3,
        on_breach=["flag", "record", lambda decision, atoms, dyn: seen.append((decision.step, len(atoms), dyn))],
        record_to=tmp_path / "breaches.extxyz",
    )
    with caplog.at_level(logging.WARNING):
        dynamics.run(5)
    assert seen == [(1, 9, dynamics), (2, 9, dynamics), (4, 9, dynamics)]
    assert [r.name for r in caplog.records] == ["blipcalc.monitor.actions"] * 2  # once per run of breaches
    assert caplog.records[0].getMessage().startswith("step 1: atom_std of atom")
    assert [f.info["breach_step"] for f in io.read(tmp_path / "breaches.extxyz")] == [1, 2, 4]
    assert monitor.status == "finished"
    assert monitor.decision.breached is False


def test_an_error_of_the_users_function_is_the_users(scripted):
    def fail(decision, atoms, dynamics):
        raise ZeroDivisionError

    dynamics = verlet(scripted(spike(2)))
    UncertaintyMonitor(dynamics, threshold=0.3, on_breach=fail)
    with pytest.raises(ZeroDivisionError):
        dynamics.run(5)
    assert dynamics.nsteps == 2


@pytest.mark.parametrize("optimizer", [BFGS, FIRE])
def test_optimisers(scripted, optimizer):
    dynamics = optimizer(scripted(spike(2)), logfile=None)
    monitor = UncertaintyMonitor(threshold=0.3).attach(dynamics)
    dynamics.run(fmax=1e-3, steps=50)
    assert dynamics.nsteps == 2
    assert monitor.status == "halted"
    assert np.isnan(monitor.history["time_fs"]).all()
    monitor.resume()
    dynamics.run(fmax=1e-3, steps=200)
    assert monitor.status == "finished"
    assert dynamics.nsteps < 200


@pytest.mark.parametrize("optimizer", [SciPyFminCG, SciPyFminBFGS, ODE12r])
@pytest.mark.parametrize("at", [0, 2])
def test_optimisers_that_do_not_look_at_their_steps(scripted, optimizer, at):
    # the script goes by evaluations, of which a line search needs more than one
    dynamics = optimizer(scripted([*[0.1] * at, 0.9], atoms=molecule("C6H6")), logfile=None)
    written = []
    monitor = UncertaintyMonitor(threshold=0.3).attach(dynamics)
    dynamics.attach(lambda: written.append(dynamics.nsteps))
    dynamics.run(fmax=1e-6, steps=50)
    assert monitor.status == "halted"
    assert dynamics.nsteps == monitor.halts[-1] == written[-1] == monitor.history["step"][-1]
    assert len(dynamics.observers) == 2
    calls = dynamics.force_calls
    monitor.detach()
    dynamics.run(fmax=1e-6, steps=50)
    assert dynamics.force_calls > calls


def test_somebody_else_who_ends_a_run(scripted):
    atoms = scripted([0.1])
    dynamics = verlet(atoms)
    first = UncertaintyMonitor(dynamics, threshold=0.3, every=5)
    second = UncertaintyMonitor(dynamics, criteria=[AtomFraction(0.3, 0.5)])
    atoms.calc.predictor.script = lambda step: 0.1 if step < 7 else 0.9
    dynamics.run(20)
    assert (dynamics.nsteps, first.status, second.status) == (7, "stopped", "halted")
    second.detach()
    first.resume()
    atoms.calc.predictor.script = lambda step: 0.1
    dynamics.run(4)
    assert (dynamics.nsteps, first.status) == (11, "finished")


def test_two_monitors_that_annotate(scripted):
    atoms = scripted([0.1])
    dynamics = verlet(atoms)
    monitors = [UncertaintyMonitor(dynamics, threshold=0.3, every=every, annotate=True) for every in (1, 10)]
    seen = []
    dynamics.attach(lambda: seen.append("blip_atom_std" in atoms.info))
    dynamics.run(5)
    assert seen == [True] * 6
    silent = UncertaintyMonitor(dynamics, threshold=0.3)
    silent.detach()
    assert "blip_atom_std" in atoms.info
    monitors[0].detach()
    assert "blip_atom_std" not in atoms.info


@pytest.mark.parametrize("thresholds", [{}, {"C": 0.3, "O": 0.3}])
def test_incomplete_thresholds_are_refused_at_once(scripted, thresholds):
    with pytest.raises(ConfigurationError, match="no threshold"):
        UncertaintyMonitor(verlet(scripted([0.1])), threshold=thresholds)


def test_cell_filter():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.calc = BayesianCalculator(committee([EMT(), EMT(), LennardJones(sigma=2.3, epsilon=0.4, rc=6.0)]), raw=True)
    dynamics = BFGS(FrechetCellFilter(atoms), logfile=None)
    monitor = UncertaintyMonitor(dynamics, threshold=1e-6)
    dynamics.run(fmax=0.01, steps=5)
    assert monitor.halted
    assert dynamics.nsteps == 0
    assert monitor.atoms is atoms


def test_atoms_hidden_by_a_filter_are_not_watched(scripted):
    atoms = scripted(lambda step: np.where(np.arange(9) == 2, 0.9, 0.1))
    dynamics = BFGS(Filter(atoms, indices=[0, 1, 3]), logfile=None)
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(fmax=1e-3, steps=3)
    assert not monitor.halted
    assert monitor.history["max_atom_std"] == pytest.approx(0.1)


def test_a_sum_of_calculators(scripted, tmp_path):
    atoms = scripted(spike(3))
    inner = atoms.calc
    atoms.calc = SumCalculator([inner, LennardJones(sigma=1e-3)])
    with pytest.raises(MonitorError, match="calculator="):
        UncertaintyMonitor(verlet(atoms), threshold=0.3)
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.3, calculator=inner, record_to=tmp_path / "x.traj")
    dynamics.run(20)
    assert monitor.halts == [3]
    (frame,) = io.read(tmp_path / "x.traj")
    assert frame.calc.get_property("atom_std").max() == pytest.approx(0.9)
    assert frame.get_potential_energy() == atoms.get_potential_energy()


def test_refusals(scripted, calibration):
    dynamics = verlet(scripted([0.1]))
    for settings in (
        {},
        {"tolerance": 0.5, "threshold": 0.3},
        {"threshold": -1.0},
        {"tolerance": math.nan},
        {"threshold": 0.3, "every": 0},
        {"threshold": 0.3, "every": 1.5},
        {"threshold": 0.3, "on_breach": "stop"},
        {"threshold": 0.3, "on_breach": "record"},
        {"threshold": 0.3, "on_breach": "halt", "record_to": "x.traj"},
    ):
        with pytest.raises(ConfigurationError):
            UncertaintyMonitor(dynamics, **settings)
    with pytest.raises(CalibrationError, match="blipcalc calibrate"):
        UncertaintyMonitor(dynamics, tolerance=0.5)
    assert dynamics.observers == []
    calibrated = verlet(scripted([0.1], calibration=calibration()))
    with pytest.raises(CalibrationError, match="level"):
        UncertaintyMonitor(calibrated, tolerance=0.5, level=0.5)


def test_calculators_and_dynamics_that_cannot_be_watched(scripted):
    atoms = bulk("Cu")
    with pytest.raises(MonitorError, match="no calculator"):
        UncertaintyMonitor(verlet(atoms), threshold=0.3)
    atoms.calc = EMT()
    with pytest.raises(MonitorError, match="EMT gives no 'atom_std'"):
        UncertaintyMonitor(verlet(atoms), threshold=0.3)
    atoms.calc = BayesianCalculator(committee([EMT()]))
    with pytest.raises(MonitorError, match="n_draws"):
        UncertaintyMonitor(verlet(atoms), threshold=0.3)
    images = [atoms.copy() for _ in range(3)]
    with pytest.raises(MonitorError, match="NEB"):
        UncertaintyMonitor(BFGS(NEB(images, method="improvedtangent"), logfile=None), threshold=0.3)
    monitor = UncertaintyMonitor(verlet(scripted([0.1])), threshold=0.3)
    with pytest.raises(MonitorError, match="already"):
        monitor.attach(verlet(scripted([0.1])))
    with pytest.raises(MonitorError, match="not attached"):
        UncertaintyMonitor(threshold=0.3).resume() or UncertaintyMonitor(threshold=0.3).atoms


def test_history_is_a_table(scripted, tmp_path):
    atoms = scripted([0.1, 0.2, 0.9])
    atoms.set_momenta(np.random.default_rng(0).normal(size=(9, 3)))
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(10)
    table = monitor.history.to_dict()
    assert list(table) == list(monitor.history.columns)
    assert {len(column) for column in table.values()} == {3}
    assert table["time_fs"] == pytest.approx([0.0, 0.5, 1.0])
    assert table["temperature_K"][-1] == pytest.approx(atoms.get_temperature())
    assert table["energy"][-1] == atoms.get_potential_energy()
    assert table["energy_std"] == pytest.approx(0.01)
    assert table["breached"].tolist() == [False, False, True]
    monitor.history.save_csv(tmp_path / "history.csv")
    stored = np.genfromtxt(tmp_path / "history.csv", delimiter=",", names=True, dtype=None, encoding=None)
    assert np.array_equal(stored["max_atom_std"], table["max_atom_std"])
    with pytest.raises(UnknownKeyError, match="no column"):
        monitor.history["sigma"]


@pytest.mark.parametrize("script", [spike(5), spike(5, high=math.nan), [math.nan]])
def test_it_plots_itself(scripted, tmp_path, script):
    dynamics = verlet(scripted(script))
    monitor = UncertaintyMonitor(dynamics, threshold=0.3)
    dynamics.run(10)
    monitor.plot(tmp_path / "run.png", title="ethanol")
    picture = (tmp_path / "run.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000


def test_plot_of_nothing_and_of_an_optimiser(scripted, tmp_path):
    dynamics = BFGS(scripted([0.1]), logfile=None)
    monitor = UncertaintyMonitor(dynamics, threshold={"C": 1.0, "H": 1.0, "O": 1.0})
    monitor.plot(tmp_path / "empty.png")
    dynamics.run(steps=3)
    monitor.plot(tmp_path / "opt.png")
    assert (tmp_path / "opt.png").is_file()


def test_ases_reader_reads_what_the_monitor_records(scripted, tmp_path):
    dynamics = verlet(scripted(spike(1)))
    UncertaintyMonitor(dynamics, threshold=0.3, record_to=tmp_path / "x.extxyz")
    dynamics.run(5)
    frame = ase.io.read(tmp_path / "x.extxyz")
    assert isinstance(frame, Atoms)
    assert frame.symbols.get_chemical_formula() == molecule("CH3CH2OH").symbols.get_chemical_formula()
    assert frame.arrays["blip_atom_std"].max() == pytest.approx(0.9)


def test_going_on_excuses_only_the_rule_that_halted(scripted):
    """A second rule, a fault, and a warning that lasts: none of them is excused with the first."""
    atoms = scripted([0.1, 0.6, 0.6, 0.6, 0.6, 2.0, 2.0])
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, threshold=0.5, criteria=[AtomFraction(1.0, 0.5)])
    dynamics.run(10)
    assert dynamics.nsteps == 1
    monitor.resume()
    dynamics.run(10)
    assert (dynamics.nsteps, monitor.status) == (5, "halted")
    assert "of the atoms" in monitor.decision.unit

    kicked = scripted([0.1] + [0.6] * 50, forces=lambda step, forces: forces + 5000.0 * (step == 7))
    dynamics = verlet(kicked)
    monitor = UncertaintyMonitor(dynamics, threshold=0.5)
    dynamics.run(20)
    monitor.resume()
    dynamics.run(20)
    assert monitor.status == "halted"
    assert dynamics.nsteps <= 9


def test_a_halt_that_follows_a_warning_is_flagged(scripted, caplog):
    def rule(reading):
        found = MaxAtomStd(0.2)(reading)
        return replace(found, halts=reading.max_atom_std > 0.5)

    dynamics = verlet(scripted([0.1, 0.3, 0.3, 0.6]))
    UncertaintyMonitor(dynamics, criteria=[rule])
    dynamics.run(10)
    assert [record.message.partition(":")[0] for record in caplog.records] == ["step 1", "step 3"]
