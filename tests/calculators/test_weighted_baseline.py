"""The weighted baseline: closed forms, derivatives, limits, and a run that keeps its energy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from ase.md.verlet import VelocityVerlet
from scaled_emt import ScaledEMT

from blipcalc import io
from blipcalc.adapters.committee import committee
from blipcalc.calculators import weighted_baseline as fallback
from blipcalc.calculators.bayesian import VARIANCES, BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.weighted_baseline import BaselineFallback
from blipcalc.core.prediction import Calibration, SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.errors import CalibrationError, ConfigurationError, NonFiniteError
from blipcalc.files.bundled import starting_structure
from blipcalc.md.restart import identity
from blipcalc.md.run_md import run_md
from blipcalc.monitor.audit import LabelAudit
from blipcalc.monitor.observer import UncertaintyMonitor


class Wells(Predictor):
    """Draws ½ c_k Σ d² + ¼ q_k Σ d⁴ + offset around the origin; on the centre surface the first of them."""

    species, has_stress, has_energies, heads = None, False, False, "none"

    def __init__(self, c, q=0.0, offset=0.0, surface="mean", calibration=None):
        self.c, self.q = np.array(c, dtype=float), np.broadcast_to(np.array(q, dtype=float), len(c))
        self.n_draws, self.offset, self.surface, self.calibration = len(c), offset, surface, calibration

    def __call__(self, structures, need=Need()):
        (atoms,) = structures
        d = atoms.positions
        energy = self.offset + 0.5 * self.c * (d**2).sum() + 0.25 * self.q * (d**4).sum()
        forces = -self.c[:, None, None] * d - self.q[:, None, None] * d**3
        draws = SampleArrays(energy=energy, forces=forces if need.forces else None)
        centre = draws.first(1) if self.surface == "centre" else None
        found = summarize(atoms.numbers, draws, centre=centre, keep_samples=need.samples)
        return [found if self.calibration is None else self.calibration.apply(found)]


class Well(Calculator):
    """½ c Σ d²."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, c):
        super().__init__()
        self.c, self.calls = c, 0

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        d = self.atoms.positions
        self.results = {"energy": 0.5 * self.c * (d**2).sum(), "forces": -self.c * d}


NONE = {"Cu": 0.0, "Ar": 0.0}


def calibration(n_draws, factor, surface="mean"):
    return Calibration(
        surface=surface, n_draws=n_draws, seed=0, model_hash="m", scale={18: 2.0, 29: 2.0}, scale_energy=factor,
        q_atom={29: {0.95: 2.0}}, q_frame={0.95: 2.0}, n_frames=9, n_atoms={29: 36}, frames_hash="f",
    )  # fmt: skip


def atom(x=0.8):
    return Atoms("Ar", positions=[(x, 0.3, -0.2)])


def wells(sigma=0.3, constants=None, offset=0.0, surface="mean", **settings):
    model = Wells([4.0, 6.0], offset=offset, surface=surface, calibration=constants)
    calc = BayesianCalculator(model, raw=constants is None)
    return BaselineFallback(calc, Well(3.0), sigma_baseline_eV=sigma, **settings or {"shifts": NONE})


@pytest.mark.parametrize("factor", [None, 2.5])
@pytest.mark.parametrize("surface", ["mean", "centre"])
def test_two_harmonic_draws_in_closed_form(factor, surface):
    """E_k = c_k u with u = ½ d²: σ² = s (c_1 - c_2)² u² / 2, and V is a function of u alone."""
    constants = None if factor is None else calibration(2, factor, surface)
    calc, atoms = wells(0.3, constants, surface=surface), atom()
    d, b, s = atoms.positions, 0.3**2, factor or 1.0
    u = 0.5 * (d**2).sum()
    c = 5.0 if surface == "mean" else 4.0
    var = s * 2.0 * u**2
    w = b / (b + var)
    dw = -(w**2) / b * s * 4.0 * u
    slope = w * c + (1 - w) * 3.0 + (c - 3.0) * u * dw
    assert calc.get_property("weight", atoms) == pytest.approx(w, rel=1e-13)
    assert calc.get_property("energy", atoms) == pytest.approx(w * c * u + (1 - w) * 3.0 * u, rel=1e-13)
    np.testing.assert_allclose(calc.get_property("forces", atoms), -slope * d, rtol=1e-12)
    assert calc.get_property("energy_var", atoms) == pytest.approx(var, rel=1e-12)
    assert 0.05 < w < 0.8


def committee_of_copper(constants=None, epsilon=0.3):
    model = BayesianCalculator(committee([ScaledEMT(f) for f in (0.9, 1.0, 1.17)], constants), raw=constants is None)
    return model, MorsePotential(epsilon=epsilon, r0=2.6, rho0=4.0, rcut1=4.0, rcut2=5.0)


def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.15, seed=0)
    return atoms


@pytest.mark.parametrize("constants", [None, calibration(3, 1.7)])
def test_forces_and_stress_are_derivatives(constants, monkeypatch):
    atoms, relaxed = copper(), bulk("Cu", cubic=True)
    model, morse = committee_of_copper(constants)
    atoms.calc = BaselineFallback(model, morse, sigma_baseline_eV=0.1, align_on=relaxed)
    assert 0.1 < atoms.calc.get_property("weight", atoms) < 0.9
    forces, stress = calculate_numerical_forces(atoms, 1e-4), calculate_numerical_stress(atoms, 1e-4)
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-6)
    np.testing.assert_allclose(atoms.get_stress(), stress, rtol=0, atol=1e-6)
    # the control: without the term of the weight neither is
    monkeypatch.setattr(fallback, "cross_covariance", lambda scalars, samples: np.zeros_like(samples[0]))
    atoms.calc.reset()
    assert np.abs(atoms.get_forces() - forces).max() > 1e-2
    assert np.abs(atoms.get_stress() - stress).max() > 1e-5


def test_limits():
    """A baseline of no worth leaves the model, one that is exact takes over; where all draws agree the model stays."""
    atoms = atom()
    model, base = wells().bayesian, Well(3.0)
    for sigma, part, weight in ((1e6, model, 1.0), (1e-7, base, 0.0)):
        calc = wells(sigma)
        assert calc.get_property("weight", atoms) == pytest.approx(weight, abs=1e-11)
        assert calc.get_property("energy", atoms) == pytest.approx(part.get_property("energy", atoms), abs=1e-10)
        np.testing.assert_allclose(calc.get_property("forces", atoms), part.get_property("forces", atoms), atol=1e-9)
    at_home = atom()
    at_home.positions[:] = 0.0
    assert wells(1e-7).get_property("weight", at_home) == 1.0


def test_variances_are_those_of_the_model_and_need_no_baseline():
    atoms, calc = atom(), wells()
    for key in (k for k in VARIANCES if not k.startswith(("stress", "pressure"))):
        assert np.array_equal(calc.get_property(key, atoms), calc.bayesian.get_property(key, atoms))
    calc.get_property("weight", atoms)
    assert calc.baseline.calls == 0
    calc.get_property("forces", atoms)
    assert "energy" in calc.results
    assert calc.baseline.calls == 1
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("stress", atoms)
    assert "weight" not in Calculator.implemented_properties


def test_zeros_of_energy():
    """An offset of the model is taken out by either kind of shift; the control, left in, is a force."""
    atoms, reference = atom(), wells()
    forces, energy = reference.get_property("forces", atoms), reference.get_property("energy", atoms)
    for settings in ({"align_on": atom(0.0)}, {"shifts": {"Ar": -500.0}}):
        calc = wells(offset=-500.0, **settings)
        gap = 0.0
        if "align_on" in settings:  # the two agree there, and differ by u elsewhere
            gap = (5.0 - 3.0) * 0.5 * (atom(0.0).positions ** 2).sum()
            w = calc.get_property("weight", atoms)
            assert calc.get_property("energy", atoms) == pytest.approx(energy - 500.0 + (1 - w) * gap, abs=1e-9)
        else:
            assert calc.get_property("energy", atoms) == pytest.approx(energy - 500.0, abs=1e-9)
            np.testing.assert_allclose(calc.get_property("forces", atoms), forces, atol=1e-9)
    wrong = wells(offset=-500.0)
    assert np.abs(wrong.get_property("forces", atoms) - forces).max() > 100
    with pytest.raises(ConfigurationError, match="composition"):
        wells(align_on=atom()).get_property("energy", Atoms("Ar2", positions=[(0, 0, 1), (0, 0, 2)]))
    with pytest.raises(ConfigurationError, match="no shift for Xe"):
        wells().get_property("energy", Atoms("Xe", positions=[(0, 0, 1)]))


def test_a_run_that_passes_from_one_to_the_other_keeps_its_energy(monkeypatch):
    """NVE of two atoms whose weight passes through one half; the control, without the term of the weight, drifts."""

    def run(steps=2000):
        atoms = Atoms("Ar2", positions=np.random.default_rng(0).normal(0, 0.4, (2, 3)))
        model = Wells([4.0, 5.0, 6.0], q=[1.0, 2.0, 6.0])
        baseline = Well(3.0)
        calc = BayesianCalculator(model, raw=True)
        atoms.calc = BaselineFallback(calc, baseline, sigma_baseline_eV=0.04, shifts=NONE)
        atoms.set_momenta(np.random.default_rng(1).normal(0, 1.0, (2, 3)))
        energies, weights = [], []

        def look():
            energies.append(atoms.get_total_energy())
            weights.append(atoms.calc.get_property("weight", atoms))

        dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
        dynamics.attach(look)
        dynamics.run(steps)
        return np.array(energies), np.array(weights)

    energies, weights = run()
    crossings = int((np.diff(np.sign(weights - 0.5)) != 0).sum())
    assert crossings > 20
    assert weights.min() < 0.3
    assert weights.max() > 0.8

    def drift(values):
        return abs(values[-500:].mean() - values[:500].mean())

    assert np.ptp(energies) < 1e-4
    assert drift(energies) < 1e-6
    monkeypatch.setattr(fallback, "cross_covariance", lambda scalars, samples: np.zeros_like(samples[0]))
    control, _ = run()
    assert np.ptp(control) > 0.02
    assert drift(control) > 1e-4


def test_it_works_where_its_model_does(tmp_path):
    """Monitor with a tolerance, files, run folders, a sum around it; an audit, whose bounds are of other forces, refuses."""

    def start(sigma=0.3):
        atoms = Atoms("Ar3", positions=np.random.default_rng(0).normal(0, 0.4, (3, 3)))
        atoms.calc = wells(sigma, calibration(2, 1.0))
        return atoms

    atoms = start()
    monitor = UncertaintyMonitor(VelocityVerlet(atoms, units.fs), tolerance=50.0)
    assert monitor.limit == 25.0
    atoms.get_forces()
    io.write(tmp_path / "x.extxyz", atoms)
    (back,) = io.read(tmp_path / "x.extxyz")
    assert back.calc.get_property("weight", back) == atoms.calc.get_property("weight", atoms)
    assert back.calc.parameters["calibrated"] is True
    with pytest.raises(CalibrationError, match="BaselineFallback"):
        LabelAudit(VelocityVerlet(atoms, units.fs), Well(3.0))
    settings = {"timestep_fs": 1.0, "threshold": 50.0, "progress": False, "write_every": 1}
    assert identity(start()) == identity(start()) != identity(start(0.2))
    for folder, times in (("whole", (0.03,)), ("parts", (0.01, 0.03))):
        for time_ps in times:
            run_md(start(), time_ps=time_ps, folder=tmp_path / folder, **settings)
    whole, parts = (io.read(tmp_path / folder / "trajectory.traj") for folder in ("whole", "parts"))
    assert np.array_equal([f.positions for f in whole], [f.positions for f in parts])
    assert all("weight" in f.calc.results for f in parts)
    both = CombinedCalculator(start().calc, Well(0.5))
    assert both.get_property("weight", atoms) == atoms.calc.get_property("weight", atoms)
    calc = Well(0.5)
    expected = calc.get_property("forces", atoms) + atoms.get_forces()
    np.testing.assert_allclose(both.get_property("forces", atoms), expected, rtol=0, atol=1e-12)
    with pytest.raises(ConfigurationError, match="no draws"):
        both.get_samples(atoms)


def test_what_is_not_finite_or_cannot_be_is_refused():
    atoms, calc = atom(), wells()
    calc.get_property("energy", atoms)
    calc.baseline.c = np.nan
    calc.baseline.reset()
    atoms.positions += 0.1
    with pytest.raises(NonFiniteError, match=r"baseline \(Well\)"):
        calc.get_property("forces", atoms)
    assert not calc.results
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ConfigurationError, match="sigma_baseline_eV"):
            wells(bad)
    model = wells().bayesian
    for settings in ({}, {"shifts": NONE, "align_on": atom()}):
        with pytest.raises(ConfigurationError, match="zeros of energy"):
            BaselineFallback(model, Well(3.0), sigma_baseline_eV=0.1, **settings)
    with pytest.raises(ConfigurationError, match="BayesianCalculator"):
        BaselineFallback(EMT(), EMT(), sigma_baseline_eV=0.1, shifts=NONE)
    with pytest.raises(ConfigurationError, match="n_draws"):
        BaselineFallback(BayesianCalculator(Wells([1.0])), EMT(), sigma_baseline_eV=0.1, shifts=NONE)


def test_noise_of_heads_moves_no_weight():
    class Noisy(Wells):
        heads = "energy"

        def __call__(self, structures, need=Need()):
            (atoms,) = structures
            (found,) = super().__call__(structures, replace(need, samples=True))
            samples = replace(found.samples, energy_var=np.full(self.n_draws, 7.0))
            return [summarize(atoms.numbers, samples, keep_samples=need.samples)]

    atoms = atom()
    noisy = BaselineFallback(
        BayesianCalculator(Noisy([4.0, 6.0]), raw=True), Well(3.0), sigma_baseline_eV=0.3, shifts=NONE
    )
    assert noisy.get_property("energy_var", atoms) > 7.0
    assert noisy.get_property("weight", atoms) == wells().get_property("weight", atoms)


def test_an_energy_alone_after_forces_of_the_same_structure():
    """The driving potential keeps the forces that it has been asked for; the draws have none."""
    atoms = starting_structure("ethanol")
    calc = BayesianCalculator("rmd17", n_draws=2, surface="centre", raw=True)
    atoms.calc = calc
    atoms.get_forces()
    mixed = BaselineFallback(calc, LennardJones(), sigma_baseline_eV=0.1, align_on=atoms)
    energy = mixed.get_property("energy", atoms.copy())
    fresh = BayesianCalculator("rmd17", n_draws=2, surface="centre", raw=True)
    other = BaselineFallback(fresh, LennardJones(), sigma_baseline_eV=0.1, align_on=atoms.copy())
    assert energy == pytest.approx(other.get_property("energy", atoms.copy()), abs=1e-9)
