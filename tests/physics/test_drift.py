"""NVE on the mean of frozen draws: the slope of the total energy, with an interval from blocks drawn with replacement."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from scipy.signal import lfilter

from blipcalc import BayesianCalculator
from blipcalc.files.bundled import starting_structure
from blipcalc.stats.series import statistical_inefficiency

#: meV/atom/ps; drift over the run in σ_K
GATES, RATIO = {"float64": 0.005, "float32": 0.05}, 0.1
GATE = GATES["float64"]


def slope(energies, time_ps, rng, n_resamples=400):
    """Least-squares slope, and its 95 % interval: residuals come in blocks of twice their memory, drawn with replacement."""
    fit = np.polyfit(time_ps, energies, 1)
    trend = np.polyval(fit, time_ps)
    residuals = energies - trend
    n = len(residuals)
    block = min(n // 10, int(np.ceil(2 * statistical_inefficiency([residuals]))))
    found = []
    for _ in range(n_resamples):
        starts = rng.integers(0, n - block + 1, -(-n // block))
        drawn = np.concatenate([residuals[s : s + block] for s in starts])[:n]
        found.append(np.polyfit(time_ps, trend + drawn, 1)[0])
    return fit[0], *np.quantile(found, [0.025, 0.975])


def series(wanted, rng, n=4000, time_ps=10.0):
    """A known slope under noise that remembers 20 values, meV/atom."""
    noise = lfilter([1.0], [1.0, -0.9], rng.normal(scale=0.02, size=n))
    time = np.linspace(0, time_ps, n)
    return time, wanted * time + noise


@pytest.mark.chance(1)
@pytest.mark.parametrize("wanted", [0.0, 0.05])
def test_the_estimator_knows_a_slope(wanted, chance):
    covered, n = 0, chance.times(20)
    for key in range(n):
        time, energies = series(wanted, chance.rng(key))
        _, low, high = slope(energies, time, chance.rng(n + key), n_resamples=100)
        covered += low <= wanted <= high
    assert covered >= chance.counts(n, 0.9)[0]  # blocks that drift with the trend make it a little too narrow


@pytest.mark.chance(2)
def test_control_a_drift_of_ten_gates_is_outside(chance):
    time, energies = series(10 * GATE, chance.rng())
    found, low, _ = slope(energies, time, chance.rng(1))
    assert found > GATE
    assert low > GATE


def molecules_apart(seeds, temperature_K=300):
    """One structure of ethanol molecules that do not see each other, each with momenta of its own."""
    together = Atoms()
    for k, seed in enumerate(seeds):
        atoms = starting_structure("ethanol")
        thermalize_momenta(atoms, temperature_K=temperature_K, rng=np.random.default_rng(seed))
        Stationary(atoms)
        ZeroRotation(atoms)
        atoms.positions += [60.0 * k, 0.0, 0.0]
        together += atoms
    return together


def energies_of_molecules(dtype, seeds, time_ps, *, step_fs=0.5, every=16, n_draws=4):
    """NVE on the mean of frozen draws; returns times (T,) ps, potential and kinetic energies (T, molecules), meV/atom."""
    atoms = molecules_apart(seeds)
    size = len(atoms) // len(seeds)
    atoms.calc = BayesianCalculator(
        "rmd17", n_draws=n_draws, surface="mean", strategy="compiled", raw=True, device="cpu", dtype=dtype
    )
    dynamics, rows = VelocityVerlet(atoms, step_fs * units.fs), []

    def keep():
        potential = atoms.calc.get_property("energies", atoms)
        kinetic = 0.5 * (atoms.get_momenta() ** 2).sum(axis=1) / atoms.get_masses()
        rows.append([1000 * values.reshape(-1, size).mean(axis=1) for values in (potential, kinetic)])

    dynamics.attach(keep, every)
    dynamics.run(round(1000 * time_ps / step_fs))
    potential, kinetic = np.array(rows).transpose(1, 0, 2)
    return np.arange(len(rows)) * every * step_fs / 1000, potential, kinetic


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("dtype", GATES)
def test_the_mean_surface_does_not_drift(dtype):
    """Three molecules with momenta of their own from 300 K, mean of four draws of the bundled model, 50 ps after the first."""
    time, potential, kinetic = energies_of_molecules(dtype, seeds=(0, 1, 2), time_ps=51.0)
    after = time >= 1.0
    time, total, kinetic = time[after] - 1.0, (potential + kinetic)[after], kinetic[after]
    for k in range(3):
        found, low, high = slope(total[:, k], time, np.random.default_rng(k))
        print(f"{dtype}, start {k}: {found:.2g} [{low:.2g}, {high:.2g}] meV/atom/ps")
        assert max(abs(found), -low, high) <= GATES[dtype], (dtype, k, found, low, high)
        assert abs(found) * time[-1] / kinetic[:, k].std() < RATIO
