"""Sums that keep uncertainties; and what other wrappers do with them."""

from __future__ import annotations

import sys
import types

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import add_adsorbate, bulk, fcc100, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.mixing import AverageCalculator, LinearCombinationCalculator, MixedCalculator, SumCalculator
from ase.calculators.morse import MorsePotential
from ase.calculators.plumed import Plumed
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import FIRE
from scaled_emt import ScaledEMT

from blipcalc import io
from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import VARIANCES, BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.snapshot import snapshot
from blipcalc.core.prediction import Calibration
from blipcalc.errors import CalibrationError, ConfigurationError, MonitorError, NonFiniteError
from blipcalc.md.restart import identity
from blipcalc.md.run_md import run_md
from blipcalc.monitor.audit import LabelAudit
from blipcalc.monitor.observer import UncertaintyMonitor

KCAL_PER_MOL = units.kcal / units.mol


class Restraint(Calculator):
    """k/2 Σ |r - r_0|²; a stress where it is told to have one, as a matrix; no free energy."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, home, k=0.7, stress=False):
        super().__init__()
        self.home, self.k, self.calls = home, k, 0
        if stress:
            self.implemented_properties = ["energy", "forces", "stress"]

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        d = self.atoms.positions - self.home
        self.results = {"energy": 0.5 * self.k * (d**2).sum(), "forces": -self.k * d}
        if "stress" in self.implemented_properties:
            self.results["stress"] = np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T


def calibration(factor=1.3):
    return Calibration(
        surface="mean", n_draws=3, seed=0, model_hash="m", scale={29: factor}, scale_energy=factor, q_atom={29: {0.95: 2.5}},
        q_frame={0.95: 2.0}, n_frames=9, n_atoms={29: 36}, frames_hash="f",
    )  # fmt: skip


def model(constants=None):
    return BayesianCalculator(committee([ScaledEMT(f) for f in (0.9, 1.0, 1.17)], constants), raw=constants is None)


def morse():
    return MorsePotential(epsilon=0.1, r0=2.6, rho0=4.0, rcut1=4.0, rcut2=5.0)


def copper(seed=0):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def test_sums_are_sums_and_variances_are_those_of_the_part():
    atoms, alone, exact = copper(), model(calibration()), morse()
    both = CombinedCalculator(model(calibration()), exact, Restraint(bulk("Cu", cubic=True).positions, stress=True))
    rest = both.parts[2]
    for key in ("energy", "free_energy", "forces", "stress"):
        part = "energy" if key == "free_energy" else key
        third = rest.get_property(part, atoms)
        third = third.flat[[0, 4, 8, 5, 2, 1]] if key == "stress" else third
        expected = alone.get_property(key, atoms) + exact.get_property(key, atoms) + third
        np.testing.assert_allclose(both.get_property(key, atoms), expected, rtol=0, atol=1e-12)
        assert np.abs(both.get_property(key, atoms) - alone.get_property(key, atoms)).max() > 1e-3
    for key in VARIANCES:
        assert np.array_equal(both.get_property(key, atoms), alone.get_property(key, atoms))
        assert np.max(both.get_property(key, atoms)) > 0
    assert "energies" not in both.implemented_properties  # the restraint has none
    energies = CombinedCalculator(model(), EMT()).implemented_properties
    assert "energies" not in energies  # nor has a committee
    with pytest.raises(PropertyNotImplementedError):
        both.get_property("energies", atoms)
    assert "atom_std" not in Calculator.implemented_properties
    assert "atom_std" not in EMT.implemented_properties


def test_forces_and_stress_are_derivatives():
    atoms = copper()
    atoms.calc = CombinedCalculator(model(), morse())
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, 1e-4), rtol=0, atol=1e-6)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, 1e-4), rtol=0, atol=1e-6)


def test_only_what_was_asked_for_is_computed():
    atoms = copper()
    bayesian, exact = model(), Restraint(atoms.positions.copy())
    atoms.calc = CombinedCalculator(bayesian, exact)
    atoms.calc.get_property("atom_std", atoms)
    assert exact.calls == 0
    atoms.get_forces()
    assert exact.calls == 1
    counts = [m.evaluations for m in bayesian.predictor.calculators]
    atoms.get_potential_energy()
    atoms.get_forces()
    atoms.calc.get_property("energy_std", atoms)
    assert ([m.evaluations for m in bayesian.predictor.calculators], exact.calls) == (counts, 1)
    atoms.positions[0, 0] += 0.1
    assert atoms.calc.get_property("atom_std", atoms, allow_calculation=False) is None
    atoms.calc.get_property("forces", atoms)
    assert exact.calls == 2
    held = atoms.calc.results["forces"]
    np.testing.assert_allclose(held, bayesian.results["forces"] + exact.results["forces"], rtol=0, atol=0)


def test_no_results_survive_a_part_that_failed():
    atoms = copper()
    atoms.calc = CombinedCalculator(model(), morse())
    atoms.get_forces()
    atoms.positions[0, 0] = np.nan
    with pytest.raises(NonFiniteError):
        atoms.get_forces()
    assert not atoms.calc.results


def test_one_bayesian_part_and_no_other_number():
    with pytest.raises(ConfigurationError, match="exactly one Bayesian part, got 2 of 3"):
        CombinedCalculator(model(), EMT(), model())
    with pytest.raises(ConfigurationError, match="got 0 of 1"):
        CombinedCalculator(EMT())
    inner = CombinedCalculator(model(), morse())
    outer = CombinedCalculator(EMT(), inner)  # a sum within a sum has one
    assert outer.bayesian is inner.bayesian
    with pytest.raises(ConfigurationError, match="got 2"):
        CombinedCalculator(inner, outer)


def test_a_monitor_takes_it_as_it_takes_its_part():
    halts = []
    for wrap in (False, True):
        atoms = copper()
        bayesian = model(calibration())
        atoms.calc = CombinedCalculator(bayesian, Restraint(atoms.positions.copy(), k=0.0)) if wrap else bayesian
        atoms.set_momenta(np.random.default_rng(0).normal(0, 6.0, atoms.positions.shape))
        dynamics = VelocityVerlet(atoms, 2 * units.fs)
        monitor = UncertaintyMonitor(dynamics, tolerance=0.3, self_test=True)
        dynamics.run(60)
        halts.append((monitor.halts, monitor.limit))
    assert halts[0] == halts[1]
    assert halts[0][0][0] > 0
    assert halts[0][1] == 0.15
    atoms.calc = CombinedCalculator(model(), EMT())
    with pytest.raises(CalibrationError):
        UncertaintyMonitor(VelocityVerlet(atoms, 1.0), tolerance=0.9)


def test_an_audit_asks_a_reference_of_the_whole_sum():
    atoms = copper()
    exact = Restraint(bulk("Cu", cubic=True).positions, k=50.0)
    atoms.calc = CombinedCalculator(model(calibration()), exact)
    dynamics = VelocityVerlet(atoms, units.fs)
    whole = LinearCombinationCalculator([EMT(), exact], [1.0, 1.0])
    for reference, covered in ((whole, 1.0), (EMT(), 0.0)):  # the control leaves the restraint out
        audit = LabelAudit(dynamics, reference, share=1.0)
        audit()
        assert audit.values == [covered]


@pytest.mark.parametrize("suffix", [".traj", ".extxyz", ".db"])
def test_files_keep_the_variances_and_where_they_come_from(tmp_path, suffix):
    atoms = copper()
    atoms.calc = CombinedCalculator(model(calibration()), morse())
    forces, std = atoms.get_forces(), atoms.calc.get_property("atom_std", atoms)
    path = tmp_path / f"x{suffix}"
    io.write(path, atoms, samples=True)
    (back,) = io.read(path)
    np.testing.assert_allclose(back.get_forces(), forces, rtol=0, atol=1e-8)
    np.testing.assert_allclose(back.calc.get_property("atom_std", back), std, rtol=0, atol=1e-8)
    assert {key: back.calc.parameters[key] for key in ("calibrated", "surface", "n_draws")} == {
        "calibrated": True,
        "surface": "mean",
        "n_draws": 3,
    }
    np.testing.assert_allclose(back.calc.samples.forces.mean(axis=0), forces, rtol=0, atol=1e-12)
    np.testing.assert_allclose(back.calc.samples.energy.mean(), atoms.get_potential_energy(), rtol=0, atol=1e-12)


def test_run_folders_know_its_parts(tmp_path):
    def atoms(k):
        found = copper()
        home = bulk("Cu", cubic=True).positions
        found.calc = CombinedCalculator(
            model(), MorsePotential(epsilon=k, r0=2.6, rcut1=4.0, rcut2=5.0), Restraint(home)
        )
        return found

    settings = {"timestep_fs": 1.0, "threshold": 9.0, "progress": False, "folder": tmp_path / "run"}
    assert identity(atoms(0.1)) == identity(atoms(0.1)) != identity(atoms(0.2))
    run_md(atoms(0.1), time_ps=0.01, **settings)
    summary, _ = run_md(atoms(0.1), time_ps=0.02, **settings)
    assert (summary.status, summary.steps) == ("finished", 20)
    with pytest.raises(ConfigurationError):
        run_md(atoms(0.2), time_ps=0.03, **settings)
    (*_, last) = io.read(tmp_path / "run" / "trajectory.traj")
    assert last.calc.get_property("atom_std", last).max() > 0


# --- what others do -------------------------------------------------------------------------------------------------------


def test_sums_of_ase_lose_variances_or_make_wrong_ones():
    atoms = copper()
    inner = model()
    for lossy in (SumCalculator([inner, EMT()]), MixedCalculator(inner, EMT(), 0.5, 0.5)):
        assert not set(VARIANCES) & set(lossy.implemented_properties)
    std = inner.get_property("energy_std", atoms)
    var = inner.get_property("energy_var", atoms)
    twice = SumCalculator([model(), model()])
    assert twice.get_property("energy_std", atoms) == pytest.approx(2 * std)  # √2 for independent ones
    half = LinearCombinationCalculator([model(), model()], [0.5, 0.5])
    assert half.get_property("energy_var", atoms) == pytest.approx(var)  # var / 2 for independent ones
    average = AverageCalculator([ScaledEMT(f) for f in (0.9, 1.0, 1.17)])
    average.get_property("energy", atoms)
    assert not set(VARIANCES) & set(average.implemented_properties)
    assert np.var(average.results["energy_contributions"], ddof=1) == pytest.approx(var)
    with pytest.raises(AssertionError):
        SinglePointCalculator(atoms, **inner.results)
    atoms.calc = SumCalculator([inner, EMT()])
    with pytest.raises(MonitorError, match="CombinedCalculator"):
        UncertaintyMonitor(VelocityVerlet(atoms, 1.0), threshold=1.0)


def test_files_of_ase_drop_them(tmp_path):
    atoms = copper()
    atoms.calc = CombinedCalculator(model(), EMT())
    atoms.get_forces()
    atoms.calc.get_property("atom_std", atoms)
    for name in ("x.traj", "x.extxyz"):
        ase.io.write(tmp_path / name, atoms)
        back = ase.io.read(tmp_path / name)
        assert "atom_std" not in back.calc.results
        assert not any("std" in key for key in (*back.info, *back.arrays))


class Kernel:
    """What ASE asks of PLUMED's Python module: a harmonic bias k/2 (x_0 - 1)² on the first atom, in the units that were set."""

    k = 2.0

    def cmd(self, name, value=None):
        vars(self)[name] = value
        if name == "performCalc":
            shift = self.setPositions[0, 0] - 1.0
            self.setForces[0, 0] -= self.k * shift
            self.bias = 0.5 * self.k * shift**2
        if name == "getBias":
            value[0] = self.bias


@pytest.fixture
def kernel(monkeypatch):
    """The interface of PLUMED without PLUMED; the wrapper around it is ASE's own."""
    module = types.ModuleType("plumed")
    module.Plumed = Kernel
    monkeypatch.setitem(sys.modules, "plumed", module)


def biased(inner, atoms, restraint):
    atoms.calc = Plumed(inner, restraint, timestep=units.fs, atoms=atoms)
    return atoms


def check_plumed(tmp_path, restraint):
    inner = model(calibration())
    atoms = biased(inner, copper(), restraint)
    atoms.set_momenta(np.random.default_rng(0).normal(0, 6.0, atoms.positions.shape))
    for key in ("atom_std", "energy_var"):
        with pytest.raises(PropertyNotImplementedError):
            atoms.calc.get_property(key, atoms)
    dynamics = VelocityVerlet(atoms, 2 * units.fs)
    with pytest.raises(MonitorError, match="calculator="):
        UncertaintyMonitor(dynamics, tolerance=0.9)
    monitor = UncertaintyMonitor(dynamics, tolerance=0.3, calculator=inner, record_to=tmp_path / "breach.traj")
    dynamics.run(100)
    assert monitor.halted
    (frame,) = io.read(tmp_path / "breach.traj")
    assert frame.calc.get_property("atom_std", frame).max() == pytest.approx(monitor.decision.value / 2.0)
    frozen = snapshot(atoms, inner)
    assert np.array_equal(frozen.get_forces(), atoms.get_forces())
    assert np.abs(frozen.get_forces() - inner.get_property("forces", atoms)).max() > 1e-2  # the bias is in them
    assert np.array_equal(frozen.calc.get_property("atom_std", frozen), inner.get_property("atom_std", atoms))
    io.write(tmp_path / "x.extxyz", frozen)
    (back,) = io.read(tmp_path / "x.extxyz")
    assert back.calc.parameters["calibrated"] is True


def test_a_bias_of_plumed_keeps_them_behind_the_inner_calculator(tmp_path, kernel):
    check_plumed(tmp_path, [])


def test_a_bias_so_far_is_in_no_checkpoint(tmp_path, kernel):
    """ASE's wrapper counts its own steps; a run that goes on does not know them."""
    counts = []
    for time_ps in (0.01, 0.02):
        inner = model()
        atoms = biased(inner, copper(), [])
        run_md(
            atoms, time_ps=time_ps, timestep_fs=1.0, threshold=9.0, progress=False, folder=tmp_path, calculator=inner
        )
        counts.append(atoms.calc.istep)
    assert counts[1] < 20


@pytest.mark.peers
def test_plumed_itself(tmp_path):
    plumed = pytest.importorskip("plumed")
    try:
        plumed.Plumed().finalize()
    except RuntimeError as error:
        pytest.skip(f"no kernel: {error}")
    check_plumed(tmp_path, ["d: POSITION ATOM=1", "RESTRAINT ARG=d.x AT=0.1 KAPPA=20000"])


@pytest.mark.peers
def test_dispersion_of_s_dftd3():
    """D3(BJ) beside a committee: sums, variances, derivatives, and the size of the dispersion of a known dimer."""
    DFTD3 = pytest.importorskip("dftd3.ase").DFTD3
    atoms, alone, d3 = copper(), model(calibration()), DFTD3(method="PBE", damping="d3bj")
    atoms.calc = CombinedCalculator(model(calibration()), d3)
    for key in ("energy", "free_energy", "forces", "stress"):
        part = "energy" if key == "free_energy" else key  # D3 declares none
        expected = alone.get_property(key, atoms) + d3.get_property(part, atoms)
        np.testing.assert_allclose(atoms.calc.get_property(key, atoms), expected, rtol=0, atol=1e-12)
    for key in VARIANCES:
        assert np.array_equal(atoms.calc.get_property(key, atoms), alone.get_property(key, atoms))
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, 1e-3), rtol=0, atol=1e-4)
    atoms.pbc = False  # periodic D3 has cutoffs without an envelope: steps of 1e-7 eV
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, 1e-4), rtol=0, atol=1e-6)
    atoms.pbc = True
    assert d3.get_property("energy", atoms) < -0.5
    dimer = molecule("CH4") + molecule("CH4")
    dimer.positions[5:] += (0.0, 0.0, 3.9)
    energies = [DFTD3(method="PBE", damping="d3bj").get_property("energy", a) for a in (dimer, dimer[:5], dimer[5:])]
    assert -1.5 < (energies[0] - energies[1] - energies[2]) / KCAL_PER_MOL < -0.2


# --- paths ----------------------------------------------------------------------------------------------------------------


def path(shared):
    """An adatom hops on Cu(100): five images between neighbouring hollows, two layers held."""
    slab = fcc100("Cu", size=(2, 2, 2), vacuum=6.0)
    add_adsorbate(slab, "Cu", 1.7, "hollow")
    slab.set_constraint(FixAtoms(mask=slab.positions[:, 2] < slab.positions[:, 2].mean()))
    end = slab.copy()
    end.positions[-1, 0] += slab.cell[0, 0] / 2
    images = [slab, *(slab.copy() for _ in range(3)), end]
    one = CombinedCalculator(model(calibration()), morse())
    for image in images:
        image.calc = one if shared else CombinedCalculator(model(calibration()), morse())
    return images


@pytest.mark.parametrize("method", ["aseneb", "improvedtangent"])
@pytest.mark.parametrize("shared", [True, False])
def test_every_image_of_a_path_has_its_uncertainty(tmp_path, shared, method):
    images = path(shared)
    neb = NEB(images, method=method, allow_shared_calculator=shared)
    neb.interpolate(method="linear", apply_constraint=False)
    FIRE(neb, trajectory=str(tmp_path / "neb.traj"), logfile=None).run(fmax=0.05, steps=4)
    # what ASE keeps of inner images: energy and forces
    assert all(set(image.calc.results) <= {"energy", "forces"} for image in list(neb.iterimages())[1:-1])
    held = [snapshot(image).calc for image in images[1:-1]]
    known = [calc is not None and "atom_std" in calc.results for calc in held]
    assert known == ([False, False, True] if shared else [True, True, True])
    frozen = [snapshot(image, compute=("energy", "forces", "atom_std")) for image in images]
    io.write(tmp_path / "path.traj", frozen)
    back = io.read(tmp_path / "path.traj")
    fresh = model(calibration())
    for image, frame in zip(images, back, strict=True):
        expected = fresh.get_property("atom_std", image)
        # EMT's neighbour list has a skin, and so a history
        np.testing.assert_allclose(frame.calc.get_property("atom_std", frame), expected, rtol=0, atol=1e-12)
        assert expected.max() > 0.01
    energies = [frame.get_potential_energy() for frame in back]
    assert max(energies) == energies[2] > energies[0] + 0.05  # there is a barrier
    np.testing.assert_allclose(energies[1:-1], neb.energies[1:-1], rtol=0, atol=1e-10)
