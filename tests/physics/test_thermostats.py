"""Thermostats against known answers, at two timesteps: the kinetic energy K ~ Gamma(f/2, kT), and by the virial theorem

    ⟨Σ_i r_i · ∂U/∂r_i⟩ = f kT,        in harmonic wells also U ~ Gamma(f/2, kT),

f degrees of freedom.  Means and variances must be within 3 of their standard errors, of values as many as the statistical
inefficiency leaves; thermostats that are wrong must not be.
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
from scipy.stats import gamma, kstest, norm

from blipcalc.md.integrators import IntegratorConfig, integrator
from blipcalc.stats.series import statistical_inefficiency

T = 300.0
KT = units.kB * T
SPRING, QUARTIC = 1.0, 30.0
#: standard errors
MOST = 3.0
#: fs between samples, and samples in the period of squares: g is taken of their means, since its sum ends at the first swing
SAMPLE_FS, PERIOD = 4.0, 30


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
        self.results = {"energy": 0.5 * SPRING * (d**2).sum() + self.quartic * (squared**2).sum(), "forces": forces}
        self.virial = -(forces * d).sum()


def sample(make, *, n_atoms, quartic=0.0, free=False, timestep, time_ps, seed=0):
    """K, Σ r · ∂U/∂r and U of a run, eV, after its first fifth."""
    rng = np.random.default_rng(seed)
    atoms = Atoms("N" * n_atoms, positions=3.0 * np.arange(n_atoms)[:, None] * np.ones(3))
    atoms.calc = calc = Wells(atoms.positions.copy(), quartic=quartic, free=free)
    atoms.positions += rng.normal(scale=np.sqrt(KT / SPRING) / (1 + (quartic > 0)), size=(n_atoms, 3))
    thermalize_momenta(atoms, temperature_K=T, rng=rng)
    if free:
        Stationary(atoms)
    dynamics, rows = make(atoms, timestep, rng), []
    dynamics.attach(
        lambda: rows.append((atoms.get_kinetic_energy(), calc.virial, calc.results["energy"])),
        max(1, round(SAMPLE_FS / timestep)),
    )
    dynamics.run(round(1000 * time_ps / timestep))
    return np.array(rows[len(rows) // 5 :]).T


def ours(ensemble, **settings):
    def make(atoms, timestep, rng):
        return integrator(atoms, IntegratorConfig(ensemble=ensemble, timestep_fs=timestep, **settings), T, rng)

    return make


def standard_error(values):
    """Of the mean of a series that swings and remembers."""
    means = values[: len(values) // PERIOD * PERIOD].reshape(-1, PERIOD).mean(axis=1)
    return means.std() * np.sqrt(statistical_inefficiency([means]) / len(means))


def deviations(kinetic, virial, energy, freedom, *, harmonic):
    """{what: standard errors by which it is off}, and p of the distributions as normal deviates."""
    found = {}
    for name, values, mean in (("K", 2 * kinetic, freedom * KT), ("virial", virial, freedom * KT)):
        found[f"mean {name}"] = (values.mean() - mean) / standard_error(values)
    for name, values in (("K", kinetic), ("U", energy))[: 2 if harmonic else 1]:
        squares = (values - 0.5 * freedom * KT) ** 2
        # of a Gamma distribution, whose fourth moment a short run does not know
        spread = 0.5 * freedom * KT**2 * np.sqrt(2 + 12 / freedom)
        error = standard_error(squares) * spread / squares.std()
        found[f"variance of {name}"] = (squares.mean() - 0.5 * freedom * KT**2) / error
        thinned = values[:: int(np.ceil(max(PERIOD, 2 * statistical_inefficiency([values]))))]
        p = kstest(thinned, gamma(0.5 * freedom, scale=KT).cdf).pvalue
        found[f"distribution of {name}"] = norm.isf(0.5 * p)
    return found


def check(found):
    wrong = {name: round(float(value), 1) for name, value in found.items() if not abs(value) < MOST}
    assert not wrong, wrong


LOCAL = {"langevin": {"friction_per_fs": 0.02}, "baoab": {"friction_per_fs": 0.02}}
GLOBAL = {"bussi": {"damping_fs": 50.0}, "nose-hoover": {"damping_fs": 50.0}}


@pytest.mark.parametrize("timestep", [2.0, 4.0])
@pytest.mark.parametrize("ensemble", [*LOCAL, *GLOBAL])
def test_a_thermostat_samples_the_canonical_ensemble(ensemble, timestep):
    harmonic = ensemble in LOCAL  # wells without a coupling keep what each of them has under a global thermostat
    make = ours(ensemble, **(LOCAL | GLOBAL)[ensemble])
    rows = sample(make, n_atoms=16, quartic=0.0 if harmonic else QUARTIC, timestep=timestep, time_ps=12.0)
    check(deviations(*rows, 48, harmonic=harmonic))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("timestep", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("ensemble", [*LOCAL, *GLOBAL])
def test_a_thermostat_samples_it_over_a_long_time(ensemble, timestep):
    harmonic = ensemble in LOCAL
    make = ours(ensemble, **(LOCAL | GLOBAL)[ensemble])
    rows = sample(make, n_atoms=16, quartic=0.0 if harmonic else QUARTIC, timestep=timestep, time_ps=150.0, seed=1)
    check(deviations(*rows, 48, harmonic=harmonic))


def centred_langevin(atoms, timestep, rng):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the setting that is held to account here
        return Langevin(atoms, timestep * units.fs, temperature_K=T, friction=0.02 / units.fs, fixcm=True, rng=rng)


def berendsen(atoms, timestep, rng):
    return NVTBerendsen(atoms, timestep * units.fs, temperature_K=T, taut=50 * units.fs)


def test_control_langevin_with_a_fixed_centre_is_too_hot():
    """ASE's default: by N / (N - 1), kinetic and configurational."""
    kinetic, virial, energy = sample(centred_langevin, n_atoms=4, free=True, timestep=4.0, time_ps=24.0)
    found = deviations(kinetic, virial, energy, 9, harmonic=True)
    assert found["mean K"] > MOST
    assert found["mean virial"] > MOST
    assert 2 * kinetic.mean() / (9 * units.kB) == pytest.approx(T * 4 / 3, rel=0.06)
    assert virial.mean() / (9 * units.kB) == pytest.approx(T * 4 / 3, rel=0.06)


def test_control_berendsen_is_too_narrow():
    kinetic, virial, energy = sample(berendsen, n_atoms=16, quartic=QUARTIC, timestep=4.0, time_ps=12.0)
    found = deviations(kinetic, virial, energy, 48, harmonic=False)
    assert abs(found["mean K"]) < MOST
    assert found["variance of K"] < -MOST


def test_control_bussi_that_counts_the_centre_of_mass_is_too_hot():
    def make(atoms, timestep, rng):
        return Bussi(atoms, timestep * units.fs, temperature_K=T, taut=50 * units.fs, rng=rng)

    rows = sample(make, n_atoms=4, quartic=QUARTIC, free=True, timestep=4.0, time_ps=24.0)
    assert deviations(*rows, 9, harmonic=False)["mean K"] > MOST
    # and by as much as it counts too many
    error = 2 * standard_error(rows[0]) / (12 * units.kB)
    assert 2 * rows[0].mean() / (12 * units.kB) == pytest.approx(T, abs=MOST * error)
    assert MOST * error < 0.2 * T


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("timestep", [2.0, 4.0])
@pytest.mark.parametrize("ensemble", ["npt", "npt-baoab"])
def test_a_barostat_holds_temperature_and_pressure(ensemble, timestep):
    atoms, rng, pressure = bulk("Cu", cubic=True) * (2, 2, 2), np.random.default_rng(0), 1.0
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
    dynamics.run(round(30_000 / timestep))
    kinetic, pressures = np.array(rows[len(rows) // 10 :]).T
    # the chain thermostat counts 3N degrees of freedom less what its constraints take; the momentum of NPT chains is kept
    freedom = 96 if ensemble == "npt-baoab" else 93
    for values, mean in ((2 * kinetic / (freedom * units.kB), T), (pressures, pressure)):
        n = len(values) / statistical_inefficiency([values])
        error = values.std() / np.sqrt(n)
        assert abs(values.mean() - mean) < MOST * error + 0.004 * mean, (values.mean(), error)
