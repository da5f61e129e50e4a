"""Relaxed structures with error bars, against minima that are known."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from ase.constraints import ExternalForce, FixAtoms, FixBondLengths, FixedPlane, FixSymmetry, Hookean
from ase.filters import FrechetCellFilter, StrainFilter, UnitCellFilter
from ase.io import read
from ase.optimize import BFGS, FIRE, LBFGS

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.core.prediction import Calibration
from blipcalc.errors import ConfigurationError, DrawsError, SingularCellError
from blipcalc.relaxation.relax import relax

SIGMA, EPSILON = 3.40, 0.0104


class Well(Calculator):
    """½ (x - x_k)ᵀ H (x - x_k), all of x: what linear response is exact for."""

    implemented_properties = ("energy", "forces")

    def __init__(self, home, hessian):
        super().__init__()
        self.home, self.hessian = home, hessian

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x = (self.atoms.positions - self.home).ravel()
        self.results = {"energy": 0.5 * x @ self.hessian @ x, "forces": -(self.hessian @ x).reshape(-1, 3)}


class DoubleWell(Calculator):
    """h (x² - 1)² + 5 (y² + z²) of the first atom."""

    implemented_properties = ("energy", "forces")

    def __init__(self, height):
        super().__init__()
        self.height = height

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x, y, z = self.atoms.positions[0]
        energy = self.height * (x**2 - 1) ** 2 + 5 * (y**2 + z**2)
        forces = np.zeros((len(self.atoms), 3))
        forces[0] = -4 * self.height * x * (x**2 - 1), -10 * y, -10 * z
        self.results = {"energy": energy, "forces": forces}


class Scaled(EMT):
    """EMT times a factor, of a lattice stretched by another: E_k(x) = f E(x / s)."""

    def __init__(self, factor=1.0, stretch=1.0):
        super().__init__()
        self.factor, self.stretch = factor, stretch

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        shrunk = atoms.copy()
        shrunk.set_cell(atoms.cell.array / self.stretch)
        shrunk.positions = atoms.positions / self.stretch
        super().calculate(shrunk, ["energy", "forces", "stress"], all_changes)
        self.atoms = atoms.copy()
        self.results["forces"] = self.results["forces"] * self.factor / self.stretch
        self.results["stress"] = self.results["stress"] * self.factor / self.stretch**3
        for key in ("energy", "free_energy"):
            self.results[key] *= self.factor


def bayesian(members, calibration=None):
    return BayesianCalculator(committee(members, calibration), raw=calibration is None)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def wells(rng):
    """Ten wells of one stiffness around places of their own, and those places."""
    root = rng.normal(size=(9, 9))
    hessian = root @ root.T + 3 * np.eye(9)
    homes = 2.0 * np.eye(3) + 0.01 * rng.normal(size=(10, 3, 3))
    return [Well(home, hessian) for home in homes], homes


def dimers(sd_epsilon, sd_sigma, rng, n=16, distance=3.9):
    """A dimer under an ensemble of Lennard-Jones potentials, their parameters, and a plane in which nothing else is free."""
    epsilons = EPSILON * (1 + sd_epsilon * rng.normal(size=n))
    sigmas = SIGMA * (1 + sd_sigma * rng.normal(size=n))
    atoms = Atoms("Ar2", [[0, 0, 0], [distance, 0, 0]])
    members = [LennardJones(sigma=s, epsilon=e, rc=30.0) for s, e in zip(sigmas, epsilons, strict=True)]
    atoms.calc = bayesian(members)
    return atoms, epsilons, sigmas


# harmonic wells: everything is exact ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["response", "relax", "auto"])
def test_harmonic_wells_are_exact(wells, how):
    members, homes = wells
    atoms = Atoms("H3", 2.0 * np.eye(3) + 0.1)
    atoms.calc = bayesian(members)
    relaxed = relax(atoms, fmax=1e-10, z=0.0, error_bars=how)
    accuracy = 1e-3 if how == "relax" else 1e-8  # a step below 1e-4 Å ends the relaxation of a draw
    assert np.allclose(relaxed.positions.value, homes.mean(axis=0), atol=1e-8)
    assert np.allclose([s.positions for s in relaxed.error_bars.structures], homes, atol=accuracy)
    assert np.allclose(relaxed.energy.draws, 0.0, atol=1e-6 if how == "relax" else 1e-12)
    assert relaxed.error_bars.method == ("re-relaxed" if how == "relax" else "linear response")


def test_a_residual_force_does_not_matter_to_the_draws(wells):
    members, homes = wells
    atoms = Atoms("H3", 2.0 * np.eye(3) + 0.02)
    atoms.calc = bayesian(members)
    relaxed = relax(atoms, fmax=0.2, z=0.0, error_bars="response")
    assert relaxed.descent.fmax > 1e-3
    # the Hessian that error bars take has taken it away
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 1e-9
    assert np.abs(relaxed.distance(0, 1).bias) < 1e-4
    assert np.allclose([s.positions for s in relaxed.error_bars.structures], homes, atol=1e-9)


def test_held_atoms_stay_and_the_others_answer_to_them(wells):
    members, homes = wells
    atoms = Atoms("H3", homes.mean(axis=0))
    atoms.calc = bayesian(members)
    atoms.set_constraint([FixAtoms([0]), FixedPlane(1, (0, 0, 1))])
    relaxed = relax(atoms, fmax=1e-10, z=0.0)
    hessian = members[0].hessian
    free = [3, 4, 6, 7, 8]
    for home, structure in zip(homes, relaxed.error_bars.structures, strict=True):
        shift = (home - relaxed.atoms.positions).ravel()
        expected = np.linalg.solve(hessian[np.ix_(free, free)], (hessian @ shift)[free])
        found = (structure.positions - relaxed.atoms.positions).ravel()
        assert np.allclose(found[free], expected, atol=1e-9)
        assert np.abs(np.delete(found, free)).max() < 1e-12


def test_the_calibration_widens_positions_and_energies(wells):
    members, _ = wells
    calibration = Calibration(
        surface="mean", n_draws=10, seed=0, model_hash="", scale={1: 4.0}, scale_energy=9.0, q_atom={}, q_frame={},
        n_frames=0, n_atoms={}, frames_hash="",
    )  # fmt: skip
    found = []
    for constants in (None, calibration):
        atoms = Atoms("H3", 2.0 * np.eye(3))
        atoms.calc = bayesian(members, constants)
        found.append(relax(atoms, fmax=1e-8, z=0.0))
    raw, widened = found
    assert np.allclose(widened.position_std, 2 * raw.position_std)
    assert widened.energy.std == pytest.approx(3 * raw.energy.std, abs=1e-12)
    assert widened.distance(0, 1).std == pytest.approx(2 * raw.distance(0, 1).std)
    assert "calibrated on forces" in widened.table()
    assert "posterior values" in raw.table()


# a Lennard-Jones dimer: the table of methods ----------------------------------------------------------------------------


def dimer(sd_epsilon, sd_sigma, n=200):
    """A dimer under an ensemble of Lennard-Jones potentials, and their parameters."""
    rng = np.random.default_rng(0)
    epsilons, sigmas = (1 + sd * rng.normal(size=n) for sd in (sd_epsilon, sd_sigma))
    epsilons, sigmas = EPSILON * epsilons, SIGMA * sigmas
    atoms = Atoms("Ar2", [[0, 0, 0], [3.9, 0, 0]])
    members = [LennardJones(sigma=s, epsilon=e, rc=1e3) for s, e in zip(sigmas, epsilons, strict=True)]
    atoms.calc = bayesian(members)
    return atoms, epsilons, sigmas


def test_a_narrow_ensemble_of_dimers_by_linear_response():
    atoms, epsilons, sigmas = dimer(0.02, 0.005)
    relaxed = relax(atoms, fmax=1e-6, z=0.0)
    bond, exact = relaxed.distance(0, 1), 2 ** (1 / 6) * sigmas
    assert relaxed.error_bars.method == "linear response"
    # by Monte Carlo in the literature of the method: 0.01912 Å exact, 0.01913 by linear response, its bias 0.0008 Å
    assert exact.std(ddof=1) == pytest.approx(0.0191, rel=0.1)
    assert bond.std == pytest.approx(exact.std(ddof=1), rel=0.01)
    assert (bond.draws - exact).mean() == pytest.approx(0.0008, abs=0.0002)
    assert np.corrcoef(bond.draws, exact)[0, 1] > 0.99
    # E* = -ε on every draw
    assert np.sqrt(((relaxed.energy.draws + epsilons) ** 2).mean()) < 0.1 * epsilons.std()


def test_a_wide_ensemble_of_dimers_is_told_from_it_and_relaxed_draw_by_draw():
    atoms, epsilons, sigmas = dimer(0.10, 0.03, n=40)
    relaxed = relax(atoms, fmax=1e-6, z=0.0)
    assert relaxed.error_bars.method == "re-relaxed"
    assert "spread" in relaxed.error_bars.why or "move them on" in relaxed.error_bars.why
    assert np.allclose(relaxed.distance(0, 1).draws, 2 ** (1 / 6) * sigmas, atol=2e-4)
    assert np.allclose(relaxed.energy.draws, -epsilons, atol=1e-7)
    assert relaxed.error_bars.converged.all()


def test_control_linear_response_is_wrong_there_and_says_so():
    atoms, _, sigmas = dimer(0.10, 0.03, n=40)
    relaxed = relax(atoms, fmax=1e-6, z=0.0, error_bars="response")
    assert np.abs(relaxed.distance(0, 1).draws - 2 ** (1 / 6) * sigmas).max() > 0.02
    assert any("not safe" in note for note in relaxed.notes)


def test_control_hessians_of_single_draws_would_diverge():
    atoms, _, sigmas = dimer(0.10, 0.03, n=40)
    relaxed = relax(atoms, fmax=1e-6, z=0.0, error_bars="response")
    surfaces = Surfaces(atoms.calc)
    (both,) = surfaces([atoms])
    along = np.array([-1.0, 0, 0, 1.0, 0, 0])  # of a longer bond
    stiffness = surfaces.hessians([atoms] * 40, along[None])[:, 0] @ along / 2
    single = both.draws.forces.reshape(40, 6) @ along / stiffness
    exact = (2 ** (1 / 6) * sigmas).std(ddof=1)
    assert relaxed.distance(0, 1).std == pytest.approx(exact, rel=0.2)
    assert single.std(ddof=1) > 2 * exact


# crystals --------------------------------------------------------------------------------------------------------------

STRETCHES = 1 + np.array([-0.004, -0.001, 0.0, 0.002, 0.003])


def copper(cell=(1, 1, 1), **factors):
    atoms = bulk("Cu", cubic=True) * cell
    members = [Scaled(stretch=s, factor=f) for s, f in zip(STRETCHES, factors.get("factors", np.ones(5)), strict=True)]
    atoms.calc = bayesian(members)
    return atoms


def lattice_constant():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-6)
    return atoms.cell.cellpar()[0]


@pytest.mark.parametrize("how", ["response", "relax"])
@pytest.mark.parametrize("cell", [True, "isotropic", FrechetCellFilter, UnitCellFilter, StrainFilter])
def test_lattice_constants_of_stretched_crystals(how, cell):
    atoms = copper()
    atoms.rattle(0.01, seed=0)
    given = cell(atoms) if isinstance(cell, type) else cell
    if cell is StrainFilter:
        atoms.set_scaled_positions(bulk("Cu", cubic=True).get_scaled_positions())
    relaxed = relax(atoms, cell=given, fmax=1e-5, z=0.0, error_bars=how, optimizer=LBFGS)
    a = relaxed.cell_parameters()[:3]
    exact = STRETCHES * lattice_constant()
    assert relaxed.status == "converged"
    assert np.abs(a.draws - exact[:, None]).max() < (2e-4 if how == "relax" else 0.03 * exact.std())
    assert np.abs(relaxed.cell_parameters().draws[:, 3:] - 90).max() < 0.01
    assert relaxed.energy.draws.std() < 1e-4  # a stretched crystal is as deep as any


def test_an_enthalpy_and_the_cell_under_pressure():
    pressure = 5.0
    atoms = copper()
    relaxed = relax(atoms, cell=True, pressure_GPa=pressure, fmax=1e-6, z=0.0)
    exact = []
    for stretch in STRETCHES:
        one = bulk("Cu", cubic=True)
        one.calc = Scaled(stretch=stretch)
        BFGS(FrechetCellFilter(one, scalar_pressure=pressure * units.GPa), logfile=None).run(fmax=1e-6)
        exact.append((one.cell.cellpar()[0], one.get_potential_energy() + pressure * units.GPa * one.get_volume()))
    a, enthalpy = np.array(exact).T
    assert relaxed.energy.note == "enthalpy"
    assert np.abs(relaxed.cell_parameters()[0].draws - a).max() < 0.03 * a.std()
    assert np.abs(relaxed.energy.draws - enthalpy).max() < 0.03 * enthalpy.std()


def test_a_mask_of_strains_and_a_fixed_volume():
    relaxed = relax(copper(), cell=[1, 0, 0, 0, 0, 0], fmax=1e-4, z=0.0)
    draws = relaxed.cell_parameters().draws
    assert draws[:, 0].std() > 1e-3
    assert np.abs(draws[:, 1:] - draws[0, 1:]).max() < 1e-12
    shape = relax(copper(), cell="shape", fmax=1e-4, z=0.0, error_bars="response")
    assert shape.volume().std < 1e-6 * shape.volume().value


def test_symmetry_that_is_fixed_stays():
    atoms = copper()
    atoms.set_constraint(FixSymmetry(atoms, verbose=False))
    relaxed = relax(atoms, cell=True, fmax=1e-4, z=0.0)
    draws = relaxed.cell_parameters().draws
    assert np.abs(draws[:, 0] - draws[:, 1]).max() < 1e-9
    assert np.abs(draws[:, 0] - STRETCHES * lattice_constant()).max() < 1e-3
    assert relaxed.position_std.max() < 1e-6


def test_a_large_structure_is_answered_for_without_a_matrix(monkeypatch):
    for room in ("error_bars", "coordinates"):
        monkeypatch.setattr(f"blipcalc.relaxation.{room}.MOST_ATOMS", 3)
    large = relax(copper(), cell=True, fmax=1e-6, z=0.0)
    monkeypatch.undo()
    small = relax(copper(), cell=True, fmax=1e-6, z=0.0)
    assert np.allclose(large.cell_parameters().draws, small.cell_parameters().draws, atol=1e-5)
    assert np.allclose(large.energy.draws, small.energy.draws, atol=1e-7)


def test_a_defect_under_constraints():
    """A vacancy with a layer that is held: held atoms have no error bar, the neighbours of the vacancy the largest."""
    atoms = copper((2, 2, 2), factors=[0.9, 1.0, 1.0, 1.05, 1.1])
    del atoms[0]
    atoms.set_constraint(FixAtoms(atoms.positions[:, 2] > 5.0))
    relaxed = relax(atoms, fmax=0.01, z=0.0)
    held = atoms.constraints[0].index
    assert relaxed.position_std[held].max() == 0.0
    assert np.delete(relaxed.position_std, held).min() > 0.0


# when it stops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["BFGS", FIRE, "LBFGS", "MDMin", "BFGSLineSearch", "LBFGSLineSearch"])
def test_it_stops_at_the_noise_of_the_model_and_says_so(wells, optimizer):
    members, _ = wells
    atoms = Atoms("H3", 2.0 * np.eye(3) + 0.3)
    atoms.calc = bayesian(members)
    relaxed = relax(atoms, fmax=1e-6, z=0.5, optimizer=optimizer, error_bars=None)
    noise = atoms.calc.get_property("atom_std", atoms)
    left = np.linalg.norm(atoms.get_forces(), axis=1)
    assert relaxed.status == "noise floor"
    assert (left <= 0.5 * noise).all()
    assert left.max() > 1e-6
    assert "does not know them any better" in relaxed.table()
    polished = relax(atoms, fmax=1e-6, z=0.0, optimizer=optimizer, steps=2000)
    assert polished.status == "converged"


def test_the_trajectory_ends_where_the_structure_does(wells, tmp_path):
    members, _ = wells
    atoms = Atoms("H3", 2.0 * np.eye(3) + 0.02)
    atoms.calc = bayesian(members)
    relaxed = relax(atoms, trajectory=tmp_path / "path.traj", fmax=0.1, z=0.0)
    frames = read(tmp_path / "path.traj", ":")
    assert len(frames) == relaxed.descent.steps + 2  # where it began, steps, and the Newton step
    assert np.array_equal(frames[-1].positions, atoms.positions)
    assert np.array_equal(atoms.positions, relaxed.atoms.positions)
    assert np.abs(frames[-1].get_forces()).max() < np.abs(frames[-2].get_forces()).max()


def test_the_trajectory_ends_where_the_cell_does(tmp_path):
    atoms = copper()
    atoms.set_cell(1.01 * atoms.cell.array, scale_atoms=True)
    atoms.set_constraint(FixAtoms([0]))
    relax(atoms, cell=True, trajectory=tmp_path / "path.traj", fmax=0.2, z=0.0)
    last = read(tmp_path / "path.traj")
    assert np.array_equal(last.cell.array, atoms.cell.array)
    assert np.array_equal(last.positions, atoms.positions)


def test_a_saddle_is_no_minimum_and_says_so():
    double = DoubleWell(1.0), DoubleWell(1.1)
    places = np.concatenate([np.zeros((1, 3)), 5.0 * np.eye(3)])  # three that are held, so that nothing turns
    atoms = Atoms("H4", places, constraint=FixAtoms([1, 2, 3]))
    atoms.calc = bayesian(double)
    relaxed = relax(atoms, fmax=0.01, z=0.0)
    assert relaxed.descent.done
    assert any("saddle" in note for note in relaxed.notes)
    atoms.positions[0, 0] = 0.1
    assert not any("saddle" in note for note in relax(atoms, fmax=0.01, z=0.0).notes)
    held = Atoms("H4", places)
    held.set_constraint([FixAtoms([1, 2, 3]), Hookean(0, [0.0, 0.0, 0.0], k=50.0, rt=0.0)])  # a minimum, by its spring
    held.calc = bayesian(double)
    assert not any("saddle" in note for note in relax(held, fmax=0.01, z=0.0).notes)


def test_running_out_of_steps_is_no_minimum(wells):
    atoms = Atoms("H3", 2.0 * np.eye(3) + 0.3)
    atoms.calc = bayesian(wells[0])
    relaxed = relax(atoms, fmax=1e-6, z=0.0, steps=2)
    assert (relaxed.status, relaxed.error_bars) == ("steps", None)
    with pytest.raises(ConfigurationError, match="no error bars"):
        relaxed.distance(0, 1)


def test_a_monitor_halts_a_relaxation_that_wanders(wells):
    atoms = Atoms("H3", 2.0 * np.eye(3) + 0.3)
    atoms.calc = bayesian(wells[0])
    halted = relax(atoms, threshold=1e-6, on_breach="halt", fmax=1e-8, z=0.0)
    assert halted.status == "halted"
    assert halted.descent.steps == 0
    atoms.positions = 2.0 * np.eye(3) + 0.3
    flagged = relax(atoms, threshold=1e-6, fmax=1e-8, z=0.0)
    assert flagged.status == "converged"
    assert any("breached" in note for note in flagged.notes)
    assert flagged.error_bars is not None
    blind = relax(atoms, outside=3.0, on_breach="halt")
    assert blind.status == "halted"  # a committee cannot say where its data were


# refusals --------------------------------------------------------------------------------------------------------------


def test_curved_constraints_are_relaxed_draw_by_draw(wells):
    members, _ = wells
    atoms = Atoms("H3", 2.0 * np.eye(3))
    atoms.calc = bayesian(members)
    atoms.set_constraint(FixBondLengths([[0, 1]]))
    length = atoms.get_distance(0, 1)
    relaxed = relax(atoms, fmax=1e-6, z=0.0)
    assert relaxed.error_bars.method == "re-relaxed"
    assert np.abs(relaxed.distance(0, 1).draws - length).max() < 1e-6
    for member, structure in zip(members, relaxed.error_bars.structures, strict=True):
        one = structure.copy()
        one.calc, one.constraints = member, atoms.constraints
        assert np.abs(one.get_forces()).max() < 0.01


def test_what_makes_no_sense_is_refused(wells):
    atoms = Atoms("H3", 2.0 * np.eye(3))
    with pytest.raises(ConfigurationError, match="got NoneType"):
        relax(atoms)
    atoms.calc = bayesian([wells[0][0]])
    with pytest.raises(DrawsError, match="two draws"):
        relax(atoms)
    atoms.calc = bayesian(wells[0])
    for wrong, error in (
        ({"optimizer": "Newton"}, "ASE has BFGS"),
        ({"optimizer": "BFGS", "options": {"no": 1}}, "refuses its options"),
        ({"fmax": 0.0}, "fmax"),
        ({"error_bars": "yes"}, "error_bars"),
        ({"pressure_GPa": 1.0}, "cell=True"),
    ):
        with pytest.raises(ConfigurationError, match=error):
            relax(atoms, **wrong)
    with pytest.raises(SingularCellError, match="periodic"):
        relax(atoms, cell=True)
    for cell in ("round", [1, 0], [0] * 6, FrechetCellFilter(copper())):
        with pytest.raises(ConfigurationError, match="cell="):
            relax(copper(), cell=cell)
    for name in ("ODE12r", "CellAwareBFGS"):
        with pytest.raises(ConfigurationError, match="ASE has BFGS"):
            relax(atoms, optimizer=name)
    empty = Atoms("Cu", pbc=True)
    empty.calc = copper().calc
    with pytest.raises(SingularCellError, match="independent cell vectors"):
        relax(empty, cell=True)


def test_what_cannot_move_has_energies_alone(wells):
    atoms = Atoms("H3", 2.0 * np.eye(3))
    atoms.calc = bayesian(wells[0])
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    held = relax(atoms)
    assert held.position_std.max() == 0.0
    assert np.allclose(held.energy.draws, [member.get_potential_energy(atoms) for member in wells[0]])
    lone = bulk("Cu")
    lone.calc = copper().calc
    assert relax(lone).energy.std > 0


@pytest.mark.parametrize("constraint", [Hookean(a1=0, a2=1, rt=0.8, k=20.0), ExternalForce(0, 1, 0.5)])
def test_constraints_that_pull_are_part_of_every_surface(constraint):
    def dimer_of(calculator):
        atoms = Atoms("Ar2", [[0, 0, 0], [1.0, 0, 0]], constraint=constraint)
        atoms.calc = calculator
        return atoms

    members = [MorsePotential(epsilon=e, r0=r, rho0=6.0) for e, r in ((1.0, 1.0), (1.1, 0.99), (0.9, 1.02))]
    relaxed = relax(dimer_of(bayesian(members)), fmax=1e-4, z=0.0)
    exact = []
    for member in members:
        one = dimer_of(member)
        BFGS(one, logfile=None).run(fmax=1e-5)
        exact.append((one.get_distance(0, 1), one.get_potential_energy()))
    lengths, energies = np.array(exact).T
    assert relaxed.error_bars.method == "re-relaxed"
    assert relaxed.error_bars.converged.all()
    assert np.allclose(relaxed.distance(0, 1).draws, lengths, atol=2e-4)
    assert np.allclose(relaxed.energy.draws, energies, atol=1e-5)


def test_what_was_found_stays_when_the_atoms_move_on(wells):
    atoms = Atoms("H3", 2.0 * np.eye(3))
    atoms.calc = bayesian(wells[0])
    relaxed = relax(atoms, fmax=1e-6)
    before = relaxed.table()
    atoms.positions[0] -= 0.5
    assert relaxed.table() == before


def test_any_calculator_relaxes_without_error_bars():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.calc = EMT()
    assert relax(atoms, error_bars=None).status == "converged"


@pytest.mark.parametrize("primitive", [True, False])
def test_mean_bonds_of_crystals_follow_their_lattice(primitive):
    atoms = bulk("Cu", cubic=not primitive)
    atoms.calc = copper().calc
    relaxed = relax(atoms, cell=True, fmax=1e-5, z=0.0)
    (mean,) = relaxed.mean_bonds()
    assert mean.note == f"Cu-Cu, mean of {6 * len(atoms)}"
    exact = STRETCHES * lattice_constant() / np.sqrt(2)
    assert np.abs(mean.draws - exact).max() < 0.03 * exact.std()


def test_a_table_of_many_bonds_gives_their_means():
    atoms = copper((2, 2, 1))
    relaxed = relax(atoms, fmax=1e-3, z=0.0)
    assert "mean of 96" in relaxed.table()
    assert "Cu0-Cu1" not in relaxed.table()
