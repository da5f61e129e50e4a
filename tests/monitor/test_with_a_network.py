"""The monitor on a real network: what it watches must not change what is simulated."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import units
from ase.md.langevin import Langevin

from blipcalc import io
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.core.prediction import Calibration
from blipcalc.model_file.model import Model
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.posteriors.blip import BlipPosterior

K = 4


@pytest.fixture(scope="module")
def model(make_blip) -> Model:
    """A small BLIP of H and N with random weights, calibrated on both surfaces."""
    network = make_blip()
    model = Model(network, BlipPosterior(network.slot_shapes()))
    calibrations = [
        Calibration(surface, K, 0, model.hash, {1: 1.0, 7: 1.0}, 1.0, {}, {0.95: 3.0}, 10, {1: 10, 7: 10}, "f")
        for surface in ("mean", "centre")
    ]
    return model.with_calibrations(*calibrations)


def simulate(model, molecule, surface, steps, path=None, **settings):
    atoms = molecule.copy()
    atoms.calc = BayesianCalculator(model, n_draws=K, surface=surface, device="cpu")
    dynamics = Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=300,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(0),
        trajectory=path,
    )
    monitor = UncertaintyMonitor(dynamics, **settings) if settings else None
    dynamics.run(steps)
    return atoms, monitor, dynamics


@pytest.mark.parametrize("surface", ["mean", "centre"])
def test_watching_changes_nothing(model, molecule, surface):
    plain, _, _ = simulate(model, molecule, surface, 20)
    watched, monitor, _ = simulate(model, molecule, surface, 20, tolerance=1e3, every=3, annotate=True)
    assert len(monitor.history) == 7
    assert monitor.status == "finished"
    assert np.array_equal(plain.positions, watched.positions)
    assert np.array_equal(plain.get_momenta(), watched.get_momenta())


@pytest.mark.parametrize("surface", ["mean", "centre"])
def test_halted_recorded_and_resumed(model, molecule, surface, tmp_path):
    plain, watched, _ = simulate(model, molecule, surface, 20, tolerance=1e3)
    seen = watched.history["max_atom_std"][:11]
    tolerance = 3.0 * float(np.sort(seen)[-2:].mean())  # of the first steps only the largest is beyond
    path = tmp_path / "md.traj"
    atoms, monitor, dynamics = simulate(
        model, molecule, surface, 20, path, tolerance=tolerance, record_to=tmp_path / "breach.traj", annotate=True
    )
    assert monitor.halts == [int(seen.argmax())]
    assert monitor.limit == pytest.approx(tolerance / 3.0)
    assert monitor.decision.value == pytest.approx(3.0 * seen.max())
    (frame,) = io.read(tmp_path / "breach.traj")
    for key in ("atom_std", "forces_var", "energy_std", "forces"):
        assert np.array_equal(frame.calc.get_property(key, frame), atoms.calc.get_property(key, atoms))
    assert frame.calc.parameters == {"calibrated": True, "surface": surface, "n_draws": K, "seed": 0}
    last = ase.io.read(path)
    assert np.array_equal(last.info["blip_atom_std"], frame.calc.results["atom_std"])
    while dynamics.nsteps < 20:
        monitor.resume()
        dynamics.run(20 - dynamics.nsteps)
    assert np.array_equal(plain.positions, atoms.positions)
    assert len(ase.io.read(path, ":")) == 21
