"""MD under a monitor: the course of the temperature, the halt, and the file that is left."""

import numpy as np
import pytest
from ase import Atoms

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.core.prediction import SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.errors import ConfigurationError
from blipcalc.io import read
from blipcalc.md.run_md import run_md


class Springs(Predictor):
    """Three draws of springs to the starting places; their spread grows with the displacement."""

    species, n_draws, surface, has_stress, has_energies, heads = None, 3, "mean", False, False, "none"

    def __init__(self, home, spread=0.1):
        self.home, self.spread = home, spread

    def __call__(self, structures, need=Need()):
        predictions = []
        for atoms in structures:
            d = atoms.positions - self.home
            stiffness = 5.0 * (1.0 + self.spread * np.array([-1.0, 0.0, 1.0]))
            energy = 0.5 * stiffness * (d**2).sum()
            forces = -stiffness[:, None, None] * d
            predictions.append(summarize(atoms.numbers, SampleArrays(energy=energy, forces=forces)))
        return predictions


@pytest.fixture
def atoms():
    atoms = Atoms("N8", positions=np.argwhere(np.ones((2, 2, 2))) * 3.0)
    atoms.calc = BayesianCalculator(Springs(atoms.positions.copy()), raw=True)
    return atoms


def test_runs_to_the_end_below_its_threshold(atoms, tmp_path):
    summary, monitor = run_md(
        atoms, time_ps=0.1, temperature_K=300, timestep_fs=1.0, threshold=10.0, every=10, progress=False,
        trajectory=tmp_path / "x.traj", write_every=20,
    )  # fmt: skip
    assert (summary.status, summary.steps, summary.reason) == ("finished", 100, None)
    assert summary.time_ps == pytest.approx(0.1)
    frames = read(tmp_path / "x.traj")
    assert len(frames) == 6
    assert frames[-1].calc.get_property("atom_std", frames[-1]).shape == (8,)
    assert len(monitor.history) == 11


def test_a_heated_run_halts_and_the_last_frame_is_the_one_that_did(atoms, tmp_path):
    summary, monitor = run_md(
        atoms, time_ps=4.0, temperature_K=[(0.0, 100.0), (0.5, 100.0), (4.0, 4000.0)], timestep_fs=1.0, threshold=0.2,
        every=5, progress=False, trajectory=tmp_path / "x.traj", write_every=50,
    )  # fmt: skip
    assert summary.status == "halted"
    assert 0.5 < summary.time_ps < 4.0
    last = read(tmp_path / "x.traj")[-1]
    assert last.calc.get_property("atom_std", last).max() == pytest.approx(monitor.decision.value)
    assert summary.max_atom_std == pytest.approx(monitor.decision.value)
    assert summary.max_atom_std > 0.2


def test_shapes_that_are_no_course_of_temperature_are_refused(atoms):
    for bad in ({"temperature_K": [300.0]}, {"write_every": 0}):
        with pytest.raises(ConfigurationError):
            run_md(atoms, time_ps=0.01, threshold=1.0, progress=False, **bad)


def test_the_same_seed_gives_the_same_run(atoms):
    ends = []
    for _ in range(2):
        copy = atoms.copy()
        copy.calc = BayesianCalculator(Springs(atoms.positions.copy()), raw=True)
        run_md(copy, time_ps=0.05, timestep_fs=1.0, threshold=10.0, seed=3, progress=False)
        ends.append(copy.positions.copy())
    assert np.array_equal(*ends)


def test_the_thermostat_holds_its_temperature(atoms):
    summary, _ = run_md(
        atoms,
        time_ps=10.0,
        temperature_K=300,
        timestep_fs=2.0,
        friction_per_fs=0.05,
        threshold=10.0,
        every=10,
        progress=False,
    )
    assert summary.temperature_K == pytest.approx(300, abs=25)


@pytest.mark.parametrize(
    "bad", [{"time_ps": 0.0}, {"time_ps": 1.0, "timestep_fs": -1.0}, {"time_ps": 1.0, "temperature_K": 0.0}]
)
def test_senseless_lengths_are_refused(atoms, bad):
    with pytest.raises(ConfigurationError):
        run_md(atoms, threshold=1.0, progress=False, **bad)
