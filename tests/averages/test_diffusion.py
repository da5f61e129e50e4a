"""Displacements of walkers whose diffusion is known; unwrapping; what the weights on starting frames can say."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes

from blipcalc.adapters.committee import committee
from blipcalc.averages.average import average
from blipcalc.averages.diffusion import Displacement, interval_ps, relative, unwrapped
from blipcalc.averages.independent_runs import independent_runs
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.errors import ConfigurationError, DataError

D, STEP_PS = 0.4, 0.05  # Å²/ps


def walk(n_frames, n_atoms, rng):
    """(T, n, 3) Å: steps of variance 2 D Δt in each direction."""
    return np.cumsum(rng.normal(0, np.sqrt(2 * D * STEP_PS), (n_frames, n_atoms, 3)), axis=0)


@pytest.mark.chance(2)
@pytest.mark.parametrize("wrapped", [False, True])
def test_brownian_walkers(frames_of, wrapped, chance):
    """D within its sampling error, M = 6 D τ (1 - 1/N), for the centre of mass is taken out; wrapped or not."""
    rng, n_frames, n = chance.rng(), chance.times(1500), 50
    cell = np.diag([9.0, 10.0, 11.0])
    places = walk(n_frames, n, rng)
    shown = places % np.diag(cell) if wrapped else places
    frames = frames_of(shown, np.zeros(n_frames), np.zeros((n_frames, 2)), cell)
    for t, frame in enumerate(frames):
        frame.info["time_fs"] = 1000.0 * STEP_PS * t
    found = average(frames, "diffusion:H:0.5", temperature_K=300.0, discard=0.0)
    assert found.estimate.unit == "Å²/ps"
    assert found.value == pytest.approx(D * (1 - 1 / n), abs=chance.student(20) * found.sampling_error)
    assert found.sampling_error < 0.05 * D
    msd = average(frames, "msd:H:0.5", temperature_K=300.0, discard=0.0)
    np.testing.assert_allclose(msd.axis.values, STEP_PS * np.arange(1, 11))
    assert (np.abs(msd.value - 6 * D * msd.axis.values * (1 - 1 / n)) < chance.student(20) * msd.sampling_error).all()
    assert "initial distribution only" in msd.estimate.note
    if wrapped:  # the control: taken as they stand, walkers never leave the cell
        direct = Displacement("H", is_diffusion=True).along(shown, np.arange(1, 11), STEP_PS)
        assert abs(direct.mean() / (D * (1 - 1 / n)) - 1) > 0.3


def test_unwrapping_in_a_cell_that_breathes():
    rng = np.random.default_rng(1)
    cells = np.diag([8.0, 8.0, 8.0]) * (1 + 0.01 * rng.normal(size=(300, 1, 1)))
    steps = rng.normal(0, 0.2, (300, 5, 3))
    places = np.cumsum(steps, axis=0)
    wrapped = places - np.floor(places / cells[:, None, 0, :1]) * cells[:, None, 0, :1]
    found = unwrapped(wrapped, cells, np.array([True] * 3))
    assert np.abs(found[1:] - found[:-1]).max() < 4.0
    free = unwrapped(places, cells, np.array([False] * 3))
    assert np.array_equal(free, places)


def test_the_centre_of_mass_is_taken_out():
    places = np.random.default_rng(2).normal(size=(7, 3, 3))
    masses = np.array([1.0, 2.0, 5.0])
    moved = relative(places + np.arange(7)[:, None, None] * 3.0, masses)
    np.testing.assert_allclose(moved, relative(places, masses), atol=1e-12)
    np.testing.assert_allclose(np.einsum("tni,n->ti", moved, masses), 0.0, atol=1e-12)


def test_what_has_no_lags(frames_of):
    frames = frames_of(np.zeros((40, 2, 3)), np.zeros(40), np.zeros((40, 2)))
    with pytest.raises(ConfigurationError, match="longest lag of 400 frames"):
        average(frames, "msd:H:0.4", temperature_K=300.0, discard=0.0)
    with pytest.raises(DataError, match="has no O"):
        average(frames, "msd:O", temperature_K=300.0)
    frames[7].info["time_fs"] = 7.5
    with pytest.raises(DataError, match="equal times"):
        average(frames, "msd:H", temperature_K=300.0, discard=0.0)
    with pytest.raises(DataError, match="equal times"):
        interval_ps([1.0])


class Free(Calculator):
    """No forces."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}


@pytest.mark.slow
@pytest.mark.chance(6)
def test_free_particles_in_runs_of_their_own(tmp_path, chance):
    """D = k_B T (1 - 1/N) / (m γ) on the driving surface and on both draws, which are alike.

    D of 60 particles over 7.2 ps scatters by 2.4 % (120 walks drawn from the exact law of an Ornstein-Uhlenbeck process).
    """
    n, friction, scatter = 60, 0.05, 0.024 / np.sqrt(chance.times(1))
    atoms = Atoms(f"H{n}", chance.rng().uniform(0, 50, (n, 3)))
    atoms.calc = BayesianCalculator(committee([Free(), Free()]), raw=True)
    settings = {
        "time_ps": chance.times(8.0),
        "timestep_fs": 2.0,
        "friction_per_fs": friction,
        "write_every": 10,
        "every": 100,
    }
    tmp_path, most = tmp_path / str(chance.stage), chance.sigmas * scatter
    runs = independent_runs(
        atoms, tmp_path, seed=chance.seed(), threshold=1.0, fault_checks=(), progress=False, **settings
    )
    assert {run.status for run in runs.values()} == {"finished"}
    found = average(tmp_path, "diffusion:H:0.4")
    einstein = 1000.0 * units.fs**2 * units.kB * 300.0 / atoms.get_masses()[0] / friction * (1 - 1 / n)  # Å²/ps
    assert found.value == pytest.approx(einstein, rel=most)
    assert found.estimate.draws == pytest.approx(np.full(2, einstein), rel=most)
    assert found.sampling_error / einstein == pytest.approx(scatter, rel=0.7)
    assert found.noise / einstein == pytest.approx(scatter, rel=0.7)
    assert len(set(found.estimate.draws)) == 2  # runs with thermostats of their own
    assert found.model_error < most * einstein
    assert found.estimate.note == "independent runs"
