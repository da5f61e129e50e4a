"""NPT under a monitor: the pressure has an error bar, and a warning where it is too wide for the barostat."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.errors import ConfigurationError
from blipcalc.md.run_md import EVENTS, run_md
from blipcalc.model_file.model import Model
from blipcalc.models.build import build_model
from blipcalc.monitor.criteria import PressureTolerance
from blipcalc.monitor.events import read_events
from blipcalc.posteriors.blip import BlipPosterior, bayesianize

RUN = {"ensemble": "npt-baoab", "time_ps": 0.01, "timestep_fs": 1.0, "threshold": 1e6, "every": 5, "progress": False}


@pytest.fixture
def crystal():
    torch.manual_seed(0)
    network = bayesianize(build_model("painn", {"features": 8, "interactions": 1}, [13]))
    atoms = bulk("Al", cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms.calc = BayesianCalculator(Model(network, BlipPosterior(network.slot_shapes())), n_draws=4)
    return atoms


def test_the_error_bar_is_the_spread_of_the_draws_pressures(crystal):
    crystal.calc.get_property("pressure_std", crystal)
    stress = crystal.calc.get_samples(crystal).stress
    pressures = -stress[:, :3].mean(axis=1)
    found = crystal.calc.results["pressure_std"]
    assert found == pytest.approx(pressures.std(ddof=1), rel=1e-12)
    # what the diagonal of a covariance would give, components taken for independent
    naive = np.sqrt(crystal.calc.results["stress_var"][:3].sum()) / 3
    assert abs(naive - found) > 0.05 * found


def test_a_wide_bar_is_a_warning_and_no_halt(crystal, tmp_path):
    warned = {}
    for name, tolerance in (("narrow", 1e-9), ("wide", 1e3)):
        folder = tmp_path / name
        summary, monitor = run_md(_again(crystal), folder=folder, pressure_tolerance_GPa=tolerance, **RUN)
        assert summary.status == "finished"
        warned[name] = (
            [e for e in read_events(folder / EVENTS) if e["event"] == "warning"] if (folder / EVENTS).exists() else []
        )
        pressure, bar = monitor.history["pressure_GPa"], monitor.history["pressure_std_GPa"]
        assert np.isfinite(pressure).all()
        assert (bar > 0).all()
    assert not warned["wide"]
    (event,) = warned["narrow"]
    assert event["unit"] == "GPa"
    assert event["value"] == pytest.approx(monitor.history["pressure_std_GPa"][0], rel=1e-9)
    atoms = monitor.atoms
    now = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa
    assert monitor.history.last("pressure_GPa") == pytest.approx(now, rel=1e-9)


def test_it_is_not_evaluated_where_nobody_asks(crystal):
    _, monitor = run_md(_again(crystal), pressure_tolerance_GPa=None, **RUN)
    assert np.isnan(monitor.history["pressure_std_GPa"]).all()
    _, monitor = run_md(_again(crystal), **RUN | {"ensemble": "nve"})
    assert np.isnan(monitor.history["pressure_std_GPa"]).all()
    with pytest.raises(ConfigurationError, match="positive"):
        PressureTolerance(0.0)


def _again(atoms):
    copy = atoms.copy()
    copy.calc = atoms.calc
    return copy
