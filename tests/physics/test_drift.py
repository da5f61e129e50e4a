"""NVE on the mean of frozen draws: the slope of the total energy, with an interval from blocks drawn with replacement."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from blipcalc import BayesianCalculator
from blipcalc.bundle import starting_structure
from blipcalc.stats.series import statistical_inefficiency

#: meV/atom/ps in float64; of σ_K
GATE, RATIO = 0.005, 0.1


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


def series(wanted, n=4000, time_ps=10.0, seed=0):
    """A known slope under noise that remembers 20 values, meV/atom."""
    rng, noise = np.random.default_rng(seed), np.zeros(n)
    for k in range(1, n):
        noise[k] = 0.9 * noise[k - 1] + rng.normal(scale=0.02)
    time = np.linspace(0, time_ps, n)
    return time, wanted * time + noise


@pytest.mark.parametrize("wanted", [0.0, 0.05])
def test_the_estimator_knows_a_slope(wanted):
    covered = 0
    for seed in range(10):
        time, energies = series(wanted, seed=seed)
        _, low, high = slope(energies, time, np.random.default_rng(1), n_resamples=100)
        covered += low <= wanted <= high
    assert covered >= 7


def test_control_a_drift_of_ten_gates_is_outside():
    time, energies = series(10 * GATE)
    found, low, _ = slope(energies, time, np.random.default_rng(1))
    assert found > GATE
    assert low > GATE


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_mean_surface_does_not_drift():
    """Ethanol from 300 K with the bundled model, mean of four draws, float64, 0.5 fs, 2 ps after the first half."""
    atoms, rng, step = starting_structure("ethanol"), np.random.default_rng(0), 0.5
    atoms.calc = BayesianCalculator("rmd17", n_draws=4, surface="mean", strategy="traced", raw=True)
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    Stationary(atoms)
    ZeroRotation(atoms)
    dynamics, rows = VelocityVerlet(atoms, step * units.fs), []
    dynamics.attach(lambda: rows.append((atoms.get_potential_energy(), atoms.get_kinetic_energy())), 4)
    dynamics.run(5_000)
    potential, kinetic = 1000 * np.array(rows[250:]).T / len(atoms)
    time = np.arange(len(kinetic)) * 4 * step / 1000
    found, low, high = slope(potential + kinetic, time, rng)
    assert abs(found) <= GATE, (found, low, high)
    assert low <= GATE
    assert high >= -GATE
    assert abs(found) * time[-1] / kinetic.std() < RATIO
