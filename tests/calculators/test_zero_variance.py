"""An error bar of exactly zero: refused where draws are all the same, right where nothing acts on the atoms."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import blipcalc
from blipcalc.adapters.committee import CommitteePredictor
from blipcalc.calculators import BaselineFallback, CombinedCalculator, ReferenceOnDemand
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.calculators.single_draw import SingleDraw
from blipcalc.calibration.residuals import collect
from blipcalc.core.prediction import Calibration, Prediction
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.errors import MonitorError, ZeroVarianceError
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.monitor.readings import check_sensor, take_reading
from blipcalc.properties import equation_of_state, vibrations

REACH = 4.0


class Springs(Calculator):
    """½ k (r - 1.2)² (1 - r² / 16)² between atoms closer than 4 Å, images among them; with a stress where it is asked for."""

    def __init__(self, k, stress=False):
        super().__init__()
        self.k = self.parameters["k"] = k
        self.implemented_properties = ["energy", "forces", *(["stress"] if stress else [])]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        n, cell, energy = len(self.atoms), self.atoms.cell.array, 0.0
        forces, virial = np.zeros((n, 3)), np.zeros((3, 3))
        span = range(-2, 3) if self.atoms.pbc.any() else (0,)
        for shift in np.array(np.meshgrid(span, span, span)).reshape(3, -1).T @ cell:
            d = self.atoms.positions[None] + shift - self.atoms.positions[:, None]
            r = np.linalg.norm(d, axis=2)
            near = (r > 1e-9) & (r < REACH)
            x, r = r - 1.2, np.where(near, r, 1.0)
            cut, slope = 1 - (r / REACH) ** 2, -2 * r / REACH**2
            pull = np.where(near, self.k * (x * cut**2 + x**2 * cut * slope), 0.0)
            energy += 0.25 * self.k * np.where(near, x**2 * cut**2, 0.0).sum()
            forces += ((pull / r)[..., None] * d).sum(axis=1)
            virial += 0.5 * np.einsum("ij,ijk,ijl->kl", pull / r, d, d)
        self.results = {"energy": energy, "forces": forces}
        if "stress" in self.implemented_properties and self.atoms.pbc.all():
            s = virial / self.atoms.get_volume()
            self.results["stress"] = np.array([s[0, 0], s[1, 1], s[2, 2], s[1, 2], s[0, 2], s[0, 1]])


def with_committee(atoms, ks=(1.0, 1.1, 1.3), **settings):
    atoms = atoms.copy()
    atoms.calc = BayesianCalculator(blipcalc.committee([Springs(k, **settings) for k in ks]), raw=True)
    return atoms


SAME = (1.0, 1.0, 1.0)
water = molecule("H2O")
bent = molecule("H2O")
bent.rattle(0.05, seed=1)


def one_atom_cell(**settings):
    return with_committee(Atoms("Ar", cell=[2, 2, 2], pbc=True), SAME, **settings)


def prediction(forces, std):
    n = len(forces)
    cov = np.zeros((n, 3, 3))
    cov[:, range(3), range(3)] = np.reshape(std, (n, 1)) ** 2
    return Prediction(np.ones(n, int), 0.0, None, np.array(forces, float), None, 3, 0.0, cov)


def test_a_prediction_without_a_variance_is_refused():
    with pytest.raises(ZeroVarianceError, match=r"all forces is exactly zero.* reach 2 eV/Å"):
        prediction([[0, 0, 2], [0, 0, 0]], [0, 0]).demand_spread()
    with pytest.raises(ZeroVarianceError, match=r"stress.* 0\.5 eV/Å³"):
        Prediction(np.ones(1, int), 0.0, None, None, np.full(6, 0.5), 3, 0.0, None, np.zeros(6)).demand_spread()
    # what is rightly zero: forces that cancel, also but for rounding; a spread of one atom is one
    prediction([[0, 0, 0]], [0]).demand_spread()
    prediction([[1e-14, 0, 0]], [0]).demand_spread()
    prediction([[0, 0, 2], [0, 0, 0]], [1e-100, 0]).demand_spread()
    prediction([[0, 0, 2], [0, 0, 0]], [np.nan, 0]).demand_spread()


@pytest.mark.parametrize("key", ["atom_std", "forces_var", "energy_std", "draw_deviations"])
def test_equal_members_have_no_error_bar(key):
    atoms = with_committee(bent, SAME)
    with pytest.raises(ZeroVarianceError, match="all 3 draws are the same"):
        atoms.calc.get_property(key, atoms)
    assert not atoms.calc.results
    # forces alone are there, and the results with them hold no error bar that nobody asked for
    assert np.abs(atoms.get_forces()).max() > 0.1
    assert not any("var" in name or "std" in name or name == "draw_deviations" for name in atoms.calc.results)
    with pytest.raises(ZeroVarianceError):
        atoms.calc.get_property(key, atoms)
    assert np.all(np.isfinite(with_committee(bent).calc.get_property(key, bent)))


@pytest.mark.parametrize(
    "ask",
    [
        lambda atoms: blipcalc.relax(atoms),
        lambda atoms: Surfaces(atoms.calc)([atoms]),
        lambda atoms: Surfaces(atoms.calc).energies([atoms, atoms]),
        lambda atoms: collect(atoms.calc.predictor, [atoms], require_labels=False),
        lambda atoms: blipcalc.run_md(atoms, time_ps=0.01, threshold=0.1, progress=False),
    ],
    ids=["relax", "surfaces", "energies", "residuals", "md"],
)
def test_whoever_prints_an_error_bar_refuses_equal_members(ask):
    with pytest.raises(ZeroVarianceError):
        ask(with_committee(bent, SAME))


def test_equal_members_are_told_where_all_of_them_rest():
    """Forces vanish in the minimum that all draws have; the energy alone, and curvatures, say no more."""
    rest = bent.copy()
    rest.calc = Springs(1.0)
    BFGS(rest, logfile=None).run(fmax=1e-9)
    same, other = with_committee(rest, SAME), with_committee(rest)
    assert np.abs(same.get_forces()).max() < 1e-8
    with pytest.raises(ZeroVarianceError):
        Surfaces(same.calc).energies([same])
    with pytest.raises(ZeroVarianceError):
        vibrations(same)
    assert vibrations(other).frequencies.std[-1] > 1
    # springs of other strength have their minimum in the same place, to which nothing is said by an error bar of zero
    assert np.abs(blipcalc.relax(other).positions.std).max() < 1e-6


def test_a_dynamics_of_equal_members_halts_at_once():
    atoms = with_committee(bent, SAME)
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    monitor = UncertaintyMonitor(dynamics, threshold=0.1)
    dynamics.run(3)
    assert (monitor.status, dynamics.nsteps, monitor.decision.is_hard) == ("halted", 0, True)
    assert "all 3 draws are the same" in monitor.decision.reason
    with pytest.raises(ZeroVarianceError):
        UncertaintyMonitor(VelocityVerlet(atoms, 0.5 * units.fs), threshold=0.1, self_test=True)


def test_nothing_acts_on_an_atom_alone_and_in_a_perfect_crystal():
    """Equal members there: what is zero is rightly zero, in MD too."""
    for atoms in (
        with_committee(Atoms("Ar", cell=[9, 9, 9], pbc=True), SAME),
        with_committee(Atoms("Ar"), SAME),
        with_committee(Atoms("ArAr", [[0, 0, 0], [0, 0, 9]]), SAME),
    ):
        assert not atoms.calc.get_property("atom_std", atoms).any()
        assert atoms.calc.get_property("energy_std", atoms) == 0
        check_sensor(atoms.calc, atoms)
        assert take_reading(atoms.calc, atoms, 0)[0].failure == ""
        atoms.set_momenta(np.full((len(atoms), 3), 1.0))
        summary, _ = blipcalc.run_md(atoms, time_ps=0.02, ensemble="nve", threshold=0.1, progress=False)
        assert summary.status == "finished"
    crystal = with_committee(bulk("Ar", "fcc", a=3.0) * (2, 2, 2))
    assert np.abs(crystal.get_forces()).max() < 1e-12
    check_sensor(crystal.calc, crystal)


def test_a_stress_says_what_forces_that_vanish_do_not():
    atoms = one_atom_cell(stress=True)
    with pytest.raises(ZeroVarianceError, match="stress"):
        atoms.calc.get_property("stress_std", atoms)
    with pytest.raises(ZeroVarianceError, match="energy"):  # energies alone are asked for
        Surfaces(atoms.calc).energies([atoms])
    atoms = with_committee(Atoms("Ar", cell=[2, 2, 2], pbc=True), stress=True)
    assert Surfaces(atoms.calc).energies([atoms]).std > 0


def test_energies_of_equal_members_are_told_by_another_volume():
    """No force acts on the atom of a one-atom cell, and without a stress only the energy tells."""
    one = one_atom_cell()
    with pytest.raises(ZeroVarianceError, match="energy is exactly zero, although it changes by"):
        one.calc.get_property("energy_std", one)
    with pytest.raises(ZeroVarianceError):
        equation_of_state(Atoms("Ar", cell=[1.2, 1.2, 1.2], pbc=True, calculator=one.calc))
    other = with_committee(Atoms("Ar", cell=[2, 2, 2], pbc=True))
    assert other.calc.get_property("energy_std", other) > 0


class Partly(Springs):
    """Members that differ in forces on the first atom alone."""

    def __init__(self, k):
        super().__init__(1.0)
        self.pull = k

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"][0] += self.pull


def test_a_sensor_that_is_zero_for_all_atoms_that_can_move_halts():
    atoms = bent.copy()
    atoms.calc = BayesianCalculator(blipcalc.committee([Partly(k) for k in (0.0, 0.1, 0.2)]), raw=True)
    assert take_reading(atoms.calc, atoms, 0)[0].failure == ""
    atoms.set_constraint(FixAtoms([0]))
    for dynamics in (VelocityVerlet(atoms, 0.5 * units.fs), BFGS(atoms, logfile=None)):
        monitor = UncertaintyMonitor(dynamics, threshold=0.3)
        dynamics.run(steps=5) if isinstance(dynamics, VelocityVerlet) else dynamics.run(fmax=1e-3, steps=5)
        assert (monitor.status, dynamics.nsteps, monitor.decision.is_hard) == ("halted", 0, True)
        assert "all 2 atoms that can move is exactly zero" in monitor.decision.reason
    with pytest.raises(MonitorError, match="does not answer"):
        check_sensor(atoms.calc, atoms)
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    assert take_reading(atoms.calc, atoms, 0)[0].failure == ""
    check_sensor(atoms.calc, atoms)


def test_a_run_does_not_begin_with_a_sensor_that_does_not_answer():
    atoms = bent.copy()
    atoms.calc = BayesianCalculator(blipcalc.committee([Partly(k) for k in (0.0, 0.1, 0.2)]), raw=True)
    settings = {"time_ps": 0.002, "threshold": 0.3, "progress": False}
    with pytest.raises(MonitorError, match="does not answer"):
        blipcalc.run_md(atoms, **settings)
    assert blipcalc.run_md(atoms, self_test=False, fault_checks=(), **settings)[0].steps == 4


class Exact(Springs):
    """A spring of every atom to the origin."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        Calculator.calculate(self, atoms, properties, system_changes)
        x = self.atoms.positions
        self.results = {"energy": 0.5 * self.k * (x**2).sum(), "forces": -self.k * x}


@pytest.mark.parametrize(
    "around",
    [
        lambda model: CombinedCalculator(model, Exact(0.5)),
        lambda model: ReferenceOnDemand(model, Exact(0.5)),
        lambda model: BaselineFallback(model, Exact(0.5), sigma_baseline_eV=0.1, shifts={"H": 0, "O": 0, "Ar": 0}),
        lambda model: SingleDraw(model, 1),
    ],
    ids=["sum", "on demand", "fallback", "draw"],
)
def test_calculators_around_a_model_are_judged_by_its_forces(around):
    """What is added, or drives in its place, has no variance and needs none."""
    lone = with_committee(Atoms("Ar", [[0, 0, 1]]), SAME)
    lone.calc = around(lone.calc)
    if isinstance(lone.calc, ReferenceOnDemand):
        lone.calc.switch("reference")
        assert np.abs(lone.get_forces()).max() == 0.5
    check_sensor(lone.calc, lone)
    assert take_reading(lone.calc, lone, 0)[0].failure == ""
    same, alive = with_committee(bent, SAME), with_committee(bent)
    with pytest.raises(ZeroVarianceError):
        check_sensor(around(same.calc), same)
    alive.calc = around(alive.calc)
    check_sensor(alive.calc, alive)
    assert take_reading(alive.calc, alive, 0)[0].failure == ""


@pytest.mark.parametrize(("surface", "ensemble"), [("mean", "langevin"), ("centre", "nve")])
def test_the_self_test_changes_no_run(surface, ensemble, tmp_path):
    """The same run with and without it, bit for bit, and one that goes on."""
    from blipcalc.files.bundled import starting_structure

    def run(time_ps, **settings):
        atoms = starting_structure("ethanol")
        atoms.calc = BayesianCalculator("rmd17", n_draws=2, surface=surface, raw=True)
        blipcalc.run_md(atoms, time_ps=time_ps, threshold=99.0, every=2, ensemble=ensemble, progress=False, **settings)
        return np.stack([atoms.positions, atoms.get_momenta()])

    whole = run(0.003)
    assert np.array_equal(whole, run(0.003, self_test=False))
    run(0.001, folder=tmp_path)
    assert np.array_equal(whole, run(0.003, folder=tmp_path))


def test_the_self_test_moves_what_can_move_and_costs_one_evaluation():
    atoms = with_committee(bent)
    atoms.set_constraint(FixAtoms([0, 1]))
    calls, predictor = [], atoms.calc.predictor
    members, before = predictor.calculators, atoms.positions.copy()

    class Counting(Predictor):
        species, surface, has_stress, has_energies, heads, n_draws = None, "mean", False, False, "none", 3

        def __call__(self, structures, need=Need()):
            calls.append(structures[0].positions.copy())
            return predictor(structures, need)

    assert len(members) == 3
    atoms.calc = BayesianCalculator(Counting(), raw=True)
    check_sensor(atoms.calc, atoms)
    atoms.get_forces()
    assert len(calls) == 2
    assert np.array_equal(calls[1], before)
    moved = np.abs(calls[0] - before).max(axis=1) > 0
    assert moved.tolist() == [False, False, True]
    assert np.array_equal(atoms.positions, before)


def test_the_self_test_leaves_what_is_not_finite_to_the_first_check():
    """An element that was never calibrated halts the run at step 0, with its reason."""
    atoms = bent.copy()
    uncalibrated = Calibration("mean", 3, 0, "", {8: 1.0}, 1.0, {}, {}, 9, {8: 9}, "", {8: 9})
    members = [Partly(k) for k in (0.0, 0.1, 0.2)]
    atoms.calc = BayesianCalculator(CommitteePredictor(members, calibration=uncalibrated))
    summary, _ = blipcalc.run_md(atoms, time_ps=0.002, threshold=0.3, progress=False)
    assert (summary.status, summary.steps, summary.is_finite) == ("halted", 0, False)
