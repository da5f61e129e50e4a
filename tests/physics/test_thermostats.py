"""Thermostats against known answers, at two timesteps: the kinetic energy K ~ Gamma(f/2, kT), and by the virial theorem

    ⟨Σ_i r_i · ∂U/∂r_i⟩ = f kT,        in harmonic wells also U ~ Gamma(f/2, kT),

f degrees of freedom.  Systems that do not see each other start from the canonical ensemble itself and must stay in it: atoms in
wells of their own for local thermostats, runs for global ones.  Averages over time of different systems are independent, so that
their scatter gives a standard error that no memory of a single run can spoil.  (One long run will not do for a global
thermostat: the centre of these wells keeps its share of the energy for longer than 10 ps, and with it Var K is 2.5 % too large.)
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.nvtberendsen import NVTBerendsen
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from scipy.stats import gamma, kstest

from blipcalc.md.integrators import IntegratorConfig, integrator

T = 300.0
KT = units.kB * T
SPRING, QUARTIC = 1.0, 30.0
SAMPLE_FS = 4.0
#: of a run; the first part is for the thermostat to show what it does
LENGTH_PS, UNTIL_PS = 0.7, 0.2
#: of Verlet in quartic wells: the virial is too large by 0.6 % at 2 fs and 2.6 % at 4 fs (2,000 runs)
STEP_ERROR = 0.0018  # per fs²


class Wells(Calculator):
    """Springs to the starting places, and a quartic spring between neighbours in a ring; free: around the centre of mass."""

    implemented_properties = ("energy", "forces")

    def __init__(self, home: np.ndarray, *, quartic: float = 0.0, free: bool = False) -> None:
        super().__init__()
        self.home, self.quartic, self.free = home, quartic, free

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        d = self.atoms.positions - self.home
        if self.free:
            d = d - d.mean(axis=0)
        bond = d - np.roll(d, 1, axis=0)
        squared = (bond**2).sum(axis=1)
        pull = 4 * self.quartic * squared[:, None] * bond
        forces = -SPRING * d - pull + np.roll(pull, -1, axis=0)
        #: (n,) of each atom, eV; bonds count for one of their ends
        self.energies = 0.5 * SPRING * (d**2).sum(axis=1) + self.quartic * squared**2
        self.virials = -(forces * d).sum(axis=1)
        self.results = {"energy": self.energies.sum(), "forces": forces}


def canonical(shape, quartic, rng, sweeps=400):
    """Displacements (systems, atoms, 3) from the ensemble: Gaussian, or by the method of Metropolis with a quartic ring."""
    d = rng.normal(scale=np.sqrt(KT / SPRING), size=shape)
    if not quartic:
        return d

    def energy(d):
        around = sum((((d - np.roll(d, s, axis=1)) ** 2).sum(-1)) ** 2 for s in (1, -1))
        return 0.5 * SPRING * (d**2).sum(-1) + quartic * around

    for sweep in range(2 * sweeps):
        moved = d.copy()
        moved[:, sweep % 2 :: 2] += rng.normal(scale=0.08, size=moved[:, sweep % 2 :: 2].shape)  # neighbours stay
        taken = np.log(rng.random(d.shape[:2])) < (energy(d) - energy(moved)) / KT
        d = np.where(taken[..., None], moved, d)
    return d


def sample(make, rng, *, runs=1, n_atoms, quartic=0.0, free=False, timestep, each_atom=False):
    """K, Σ r · ∂U/∂r and U, eV, (3, T, systems): of each run, or of each atom of the one run."""
    starts, found = canonical((runs, n_atoms, 3), quartic, rng), []
    for start in starts:
        # places on no line: about one, all atoms together could turn without work
        places = 3.0 * np.arange(n_atoms)[:, None] + np.random.default_rng(0).normal(size=(n_atoms, 3))
        atoms = Atoms("N" * n_atoms, positions=places)
        atoms.calc = calc = Wells(atoms.positions.copy(), quartic=quartic, free=free)
        atoms.positions += start
        thermalize_momenta(atoms, temperature_K=T, rng=rng)
        if free:
            Stationary(atoms)
        dynamics, rows = make(atoms, timestep, rng), []
        masses = atoms.get_masses()

        def keep(atoms=atoms, calc=calc, rows=rows, masses=masses):
            kinetic = 0.5 * (atoms.get_momenta() ** 2).sum(axis=1) / masses
            rows.append((kinetic, calc.virials, calc.energies))

        every = max(1, round(SAMPLE_FS / timestep))
        dynamics.attach(keep, every)
        dynamics.run(round(1000 * LENGTH_PS / timestep))
        found.append(np.array(rows[round(1000 * UNTIL_PS / (every * timestep)) :]).transpose(1, 0, 2))
    return found[0] if each_atom else np.stack([one.sum(axis=2) for one in found], axis=2)


def ours(ensemble, **settings):
    def make(atoms, timestep, rng):
        return integrator(atoms, IntegratorConfig(ensemble=ensemble, timestep_fs=timestep, **settings), T, rng)

    return make


def off(values, mean):
    """Standard errors by which averages over time (T, systems) are off a mean, of systems that are independent."""
    averages = values.mean(axis=0)
    return (averages.mean() - mean) / (averages.std(ddof=1) / np.sqrt(len(averages)))


def deviations(rows, freedom, *, harmonic):
    """{name: standard errors by which it is off}, with f degrees of freedom in a system."""
    kinetic, virial, energy = rows
    found = {"mean K": off(2 * kinetic, freedom * KT), "mean virial": off(virial, freedom * KT)}
    for name, values in (("K", kinetic), ("U", energy))[: 2 if harmonic else 1]:
        found[f"variance of {name}"] = off((values - 0.5 * freedom * KT) ** 2, 0.5 * freedom * KT**2)
    return found


def law(values, freedom):
    """p of the values of all systems at the end of their runs, under Gamma(f/2, kT)."""
    return kstest(values[-1], gamma(0.5 * freedom, scale=KT).cdf).pvalue


def check(rows, freedom, chance, *, harmonic, step_error=0.0):
    """Six comparisons at most; step_error: relative, of the virial."""
    kinetic, virial, energy = rows
    most, found = chance.student(kinetic.shape[1] - 1), deviations(rows, freedom, harmonic=harmonic)
    if found["mean virial"] > 0:
        found["mean virial"] = max(0.0, off(virial, freedom * KT * (1 + step_error)))
    wrong = {name: round(float(value), 1) for name, value in found.items() if not abs(value) < most}
    assert not wrong, (wrong, most)
    for values in (kinetic, energy)[: 2 if harmonic else 1]:
        assert law(values, freedom) > chance.p


LOCAL = {"langevin": {"friction_per_fs": 0.02}, "baoab": {"friction_per_fs": 0.02}}
GLOBAL = {"bussi": {"damping_fs": 50.0}, "nose-hoover": {"damping_fs": 50.0}}


def held_to_the_ensemble(ensemble, timestep, chance, n):
    """Local thermostats: n atoms in wells of their own, n / 10 runs of four.  Global ones: n / 20 runs of a ring of 16."""
    make, rng = ours(ensemble, **(LOCAL | GLOBAL)[ensemble]), chance.rng()
    if ensemble in LOCAL:
        rows = sample(make, rng, n_atoms=chance.times(n), timestep=timestep, each_atom=True)
        check(rows, 3, chance, harmonic=True)
        # four atoms around a centre of mass that takes part: a thermostat that fixes it is too hot by a third
        runs = chance.times(n // 10)
        kinetic, virial, _ = sample(make, rng, runs=runs, n_atoms=4, free=True, timestep=timestep)
        assert abs(off(2 * kinetic, 12 * KT)) < chance.student(runs - 1)
        assert abs(off(virial, 9 * KT)) < chance.student(runs - 1)
    else:
        rows = sample(make, rng, runs=chance.times(n // 20), n_atoms=16, quartic=QUARTIC, timestep=timestep)
        check(rows, 48, chance, harmonic=False, step_error=STEP_ERROR * timestep**2)


@pytest.mark.chance(8)
@pytest.mark.parametrize("timestep", [2.0, 4.0])
@pytest.mark.parametrize("ensemble", [*LOCAL, *GLOBAL])
def test_a_thermostat_samples_the_canonical_ensemble(ensemble, timestep, chance):
    held_to_the_ensemble(ensemble, timestep, chance, 400)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.chance(8)
@pytest.mark.parametrize("timestep", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("ensemble", [*LOCAL, *GLOBAL])
def test_a_thermostat_samples_it_in_many_systems(ensemble, timestep, chance):
    held_to_the_ensemble(ensemble, timestep, chance, 6000)


@pytest.mark.chance(2)
@pytest.mark.parametrize("timestep", [10.0, 20.0])
def test_baoab_places_atoms_right_at_long_steps(timestep, chance):
    n = chance.times(4000)
    _, virial, energy = sample(
        ours("baoab", **LOCAL["baoab"]), chance.rng(), n_atoms=n, timestep=timestep, each_atom=True
    )
    assert abs(off(virial, 3 * KT)) < chance.student(n - 1)
    assert law(energy, 3) > chance.p


@pytest.mark.chance(1)
def test_control_langevin_spreads_atoms_too_far_at_long_steps(chance):
    """By 2 % at 20 fs, 240 fs being the period of the wells."""
    n = chance.times(12_000)
    _, virial, _ = sample(ours("langevin", **LOCAL["langevin"]), chance.rng(), n_atoms=n, timestep=20.0, each_atom=True)
    assert off(virial, 3 * KT) > chance.student(n - 1)


@pytest.mark.chance(2)
def test_metropolis_starts_from_the_ensemble(chance):
    """⟨Σ r · ∂U/∂r⟩ = 48 kT of 500 rings; one that is off by a tenth is seen."""
    d = canonical((chance.times(500), 16, 3), QUARTIC, chance.rng())
    calc, virials = Wells(np.zeros((16, 3)), quartic=QUARTIC), []
    for one in d:
        calc.calculate(Atoms("N16", positions=one))
        virials.append(calc.virials.sum())
    assert abs(off(np.array([virials]), 48 * KT)) < chance.sigmas
    assert abs(off(0.9 * np.array([virials]), 48 * KT)) > chance.sigmas


def centred_langevin(atoms, timestep, rng):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the setting that is held to account here
        return Langevin(atoms, timestep * units.fs, temperature_K=T, friction=0.02 / units.fs, fixcm=True, rng=rng)


def berendsen(atoms, timestep, rng):
    return NVTBerendsen(atoms, timestep * units.fs, temperature_K=T, taut=50 * units.fs)


@pytest.mark.chance(4)
def test_control_langevin_with_a_fixed_centre_is_too_hot(chance):
    """ASE's default: by N / (N - 1), kinetic and configurational."""
    runs = chance.times(40)
    rows = sample(centred_langevin, chance.rng(), runs=runs, n_atoms=4, free=True, timestep=4.0)
    found, most = deviations(rows, 9, harmonic=True), chance.student(runs - 1)
    assert found["mean K"] > most
    assert found["mean virial"] > most
    assert abs(off(2 * rows[0], 12 * KT)) < most
    assert abs(off(rows[1], 12 * KT)) < most


@pytest.mark.chance(2)
def test_control_berendsen_is_too_narrow(chance):
    runs = chance.times(20)
    rows = sample(berendsen, chance.rng(), runs=runs, n_atoms=16, quartic=QUARTIC, timestep=4.0)
    assert deviations(rows, 48, harmonic=False)["variance of K"] < -chance.student(runs - 1)
    assert 2 * rows[0].mean() / (48 * KT) == pytest.approx(1.0, abs=0.05)  # the mean alone does not show it


@pytest.mark.chance(2)
def test_control_bussi_that_counts_the_centre_of_mass_is_too_hot(chance):
    def make(atoms, timestep, rng):
        return Bussi(atoms, timestep * units.fs, temperature_K=T, taut=50 * units.fs, rng=rng)

    runs = chance.times(40)
    rows = sample(make, chance.rng(), runs=runs, n_atoms=4, quartic=QUARTIC, free=True, timestep=4.0)
    assert deviations(rows, 9, harmonic=False)["mean K"] > chance.student(runs - 1)
    assert abs(off(2 * rows[0], 12 * KT)) < chance.student(runs - 1)  # and by as much as it counts too many


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.chance(2)
@pytest.mark.parametrize("timestep", [2.0, 4.0])
@pytest.mark.parametrize("ensemble", ["npt", "npt-baoab"])
def test_a_barostat_holds_temperature_and_pressure(ensemble, timestep, chance):
    atoms, rng, pressure = bulk("Cu", cubic=True) * (2, 2, 2), chance.rng(), 1.0
    atoms.calc = EMT()
    thermalize_momenta(atoms, temperature_K=T, rng=rng)
    Stationary(atoms)
    config = IntegratorConfig(
        ensemble=ensemble, timestep_fs=timestep, pressure_GPa=pressure, damping_fs=50.0, friction_per_fs=0.02,
        pressure_damping_fs=200.0,
    )  # fmt: skip
    dynamics, rows = integrator(atoms, config, T, rng), []
    dynamics.attach(
        lambda: rows.append(
            (atoms.get_kinetic_energy(), -atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa)
        ),
        2,
    )
    dynamics.run(round(chance.times(30_000) / timestep))
    kinetic, pressures = np.array(rows[len(rows) // 10 :]).T
    # the chain thermostat counts 3N degrees of freedom less what its constraints take; the momentum of NPT chains is kept
    freedom = 96 if ensemble == "npt-baoab" else 93
    for values, mean in ((2 * kinetic / (freedom * units.kB), T), (pressures, pressure)):
        parts = values[: len(values) // 20 * 20].reshape(20, -1).mean(axis=1)  # each longer than what it remembers
        error = parts.std(ddof=1) / np.sqrt(20)
        assert abs(values.mean() - mean) < chance.student(19) * error + 0.004 * mean, (values.mean(), error)
