"""Fixed draws conserve energy; draws taken anew at every step heat by Σ tr Σ Δt / 2m."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.data import atomic_masses
from ase.md.verlet import VelocityVerlet

from blipcalc.core.evaluate import Evaluator
from blipcalc.core.graph import Graph

KCAL = units.kcal / units.mol
#: hydrogen bound by 30 eV/Å², noise of 1 kcal/mol/Å, steps of 0.5 fs
SPRING, SIGMA, STEP, MASS = 30.0, KCAL, 0.5 * units.fs, atomic_masses[1]
LAW = SIGMA**2 * STEP / (2 * MASS)


def oscillators(n_steps, noise, *, n=20_000, friction=0.0):
    """Velocity Verlet of n hydrogen oscillators from rest; returns their energies (n,) at the end, eV.

    noise : step -> random force (n,), eV/Å, on top of the spring
    friction : per ASE time unit, at zero temperature
    """
    x, v = np.zeros(n), np.zeros(n)
    force = -SPRING * x + noise(0)
    for step in range(1, n_steps + 1):
        v += 0.5 * STEP * force / MASS
        x += 0.5 * STEP * v
        v *= np.exp(-friction * STEP)
        x += 0.5 * STEP * v
        force = -SPRING * x + noise(step)
        v += 0.5 * STEP * force / MASS
    return 0.5 * MASS * v**2 + 0.5 * SPRING * x**2


def resampled(sigma, rng, n):
    return lambda step: rng.normal(scale=sigma, size=n)


def test_the_law_has_its_published_numbers():
    assert LAW * 1000 * units.fs == pytest.approx(4.5e-3, rel=0.02)
    assert LAW * 1000 * units.fs / units.kB == pytest.approx(53, rel=0.02)


@pytest.mark.chance(3)
@pytest.mark.parametrize("n_averaged", [1, 4])
def test_resampled_noise_heats_a_hydrogen_atom(n_averaged, chance):
    n_steps, n = 400, chance.times(20_000)
    energy = oscillators(n_steps, resampled(SIGMA / np.sqrt(n_averaged), chance.rng(), n), n=n)
    rate, error = energy.mean() / (n_steps * STEP), energy.std() / np.sqrt(len(energy)) / (n_steps * STEP)
    assert error < 0.01 * LAW
    # the step of 0.5 fs is finite: (ω Δt)²/4 = 1.8 % on top of the statistical error
    assert rate == pytest.approx(LAW / n_averaged, abs=chance.sigmas * error + 0.02 * LAW / n_averaged)
    assert rate * 1000 * units.fs == pytest.approx(4.5e-3 / n_averaged, rel=0.06)


def test_frozen_noise_does_not_heat():
    offset = np.random.default_rng(1).normal(scale=SIGMA, size=20_000)
    energies = [oscillators(n_steps, lambda step: offset) for n_steps in (100, 400, 1600)]
    # swings around the shifted minimum, between zero and twice the energy of the shift
    bound = 2 * offset**2 / SPRING
    for energy in energies:
        assert (energy <= 1.05 * bound + 1e-12).all()
    assert energies[2].mean() < 0.1 * 1600 * STEP * LAW


@pytest.mark.chance(1)
def test_friction_turns_heating_into_a_warmer_bath(chance):
    friction = 0.01 / units.fs
    n = chance.times(8000)
    energy = oscillators(1600, resampled(SIGMA, chance.rng(), n), n=n, friction=friction)
    expected = LAW / friction
    assert expected / units.kB == pytest.approx(5.3, rel=0.02)
    assert energy.mean() == pytest.approx(expected, rel=chance.sigmas / np.sqrt(n) + 0.02)


class Pool(Calculator):
    """Mean of a pool of draws plus springs to a reference; or, for a force, one draw of the pool per copy and call.

    The energy is always that of the mean surface, so that what resampling adds to the total energy is its heat.
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, model, draws, reference, n_copies, *, spring=10.0, generator=None):
        super().__init__()
        self.evaluator, self.draws, self.cutoff = Evaluator(model), draws, model.cutoff
        self.reference, self.n_copies, self.spring, self.generator = reference, n_copies, spring, generator
        self.traces, self.copy_energies = [], None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        samples = self.evaluator(self.draws, Graph.from_atoms(atoms, self.cutoff))
        forces, away = samples.forces.numpy(), atoms.positions - self.reference
        self.copy_energies = samples.energies.numpy().mean(0).reshape(self.n_copies, -1).sum(1)
        self.copy_energies += 0.5 * self.spring * (away**2).reshape(self.n_copies, -1).sum(1)
        # divisor K: the pool is all there is
        variance = forces.var(axis=0).sum(-1) / atoms.get_masses()
        self.traces.append(variance.reshape(self.n_copies, -1).sum(1))
        force = forces.mean(0)
        if self.generator is not None:
            chosen = self.generator.integers(len(forces), size=self.n_copies)
            per_copy = forces.reshape(len(forces), self.n_copies, -1, 3)
            force = per_copy[chosen, np.arange(self.n_copies)].reshape(-1, 3)
        self.results = {"energy": self.copy_energies.sum(), "forces": force - self.spring * away}


@pytest.fixture(scope="module")
def small(make_blip, draw):
    model = make_blip(alpha_initial=0.02)
    return model, draw(model, 8)


def copies(atoms, n, cutoff):
    together = Atoms()
    for i in range(n):
        moved = atoms.copy()
        moved.positions += [4.0 * cutoff * i, 0.0, 0.0]
        together += moved
    return together


def at_rest(model, draws, ammonia, n_copies):
    """Copies of the molecule at the minimum of the mean surface with springs, at rest, and the reference of the springs."""
    single = ammonia.copy()
    single.calc = Pool(model, draws, ammonia.positions.copy(), 1)
    for _ in range(50):
        single.positions += 0.03 * single.get_forces()
    assert np.abs(single.get_forces()).max() < 1e-3
    together = copies(single, n_copies, model.cutoff)
    return together, copies(ammonia, n_copies, model.cutoff).positions


def total_energies(atoms):
    """(n_copies,) eV."""
    kinetic = 0.5 * atoms.get_masses()[:, None] * atoms.get_velocities() ** 2
    return atoms.calc.copy_energies + kinetic.reshape(atoms.calc.n_copies, -1).sum(1)


def conserve(small, ammonia, draws, timestep, total=24.0):
    """(n_steps,) total energy of a run from a shaken start over ``total`` fs, and its largest kinetic energy, eV."""
    model, _ = small
    atoms = ammonia.copy()
    reference = atoms.positions.copy()
    atoms.positions += np.random.default_rng(0).normal(scale=0.05, size=(4, 3))
    atoms.calc = Pool(model, draws, reference, 1)
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    energies, kinetic = [], []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.attach(lambda: kinetic.append(atoms.get_kinetic_energy()))
    dynamics.run(round(total / timestep))
    return np.array(energies), max(kinetic)


@pytest.mark.parametrize("which", ["mean", "one draw"])
def test_frozen_draws_conserve_energy_to_second_order(small, ammonia, which):
    draws = small[1] if which == "mean" else small[1][3:4]
    rms, size = {}, 0.0
    for timestep in (0.2, 0.1):
        energies, kinetic = conserve(small, ammonia, draws, timestep)
        rms[timestep], size = (energies - energies.mean()).std(), max(size, kinetic)
    assert size > 0.05
    assert rms[0.1] < 0.002 * size
    assert 3.8 < rms[0.2] / rms[0.1] < 4.2


@pytest.mark.slow
def test_frozen_draws_do_not_drift(small, ammonia):
    energies, size = conserve(small, ammonia, small[1], 0.1, total=500.0)
    half = len(energies) // 2
    assert abs(energies[half:].mean() - energies[:half].mean()) < 1e-3 * size
    assert np.ptp(energies) < 0.02 * size


@pytest.mark.chance(1)
def test_resampled_draws_heat_by_the_trace_law(small, ammonia, chance):
    """Control: the same pool, one draw per force call."""
    model, draws = small
    n_copies, n_steps, timestep = chance.times(120), 30, 0.5 * units.fs
    atoms, reference = at_rest(model, draws, ammonia, n_copies)
    frozen = atoms[:40]
    atoms.calc = Pool(model, draws, reference, n_copies, generator=chance.rng())
    atoms.get_forces()
    start = total_energies(atoms)
    VelocityVerlet(atoms, timestep).run(n_steps)
    gained, traces = total_energies(atoms) - start, np.array(atoms.calc.traces)
    # the first and the last force act for half a step each: a quarter of the heat
    weights = np.r_[0.25, np.ones(n_steps - 1), 0.25]
    expected = 0.5 * timestep**2 * (weights @ traces).mean()
    ratio, error = gained.mean() / expected, gained.std(ddof=1) / np.sqrt(n_copies) / expected
    assert error < 0.1
    assert ratio == pytest.approx(1.0, abs=chance.sigmas * error)
    # frozen, the same start stays at rest
    frozen.calc = Pool(model, draws, reference[:40], 10)
    frozen.get_forces()
    start = total_energies(frozen)
    VelocityVerlet(frozen, timestep).run(10)
    assert np.abs(total_energies(frozen) - start).max() < 1e-4 * expected
