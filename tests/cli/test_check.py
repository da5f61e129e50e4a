"""``blipcalc check`` as a user types it: trajectories of the bundled model, limits, and a run that is guarded by them."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.io import read, write
from ase.md.langevin import Langevin
from typer.testing import CliRunner

from blipcalc import BayesianCalculator, UncertaintyMonitor
from blipcalc.cli.main import app
from blipcalc.errors import DataError, LimitsError
from blipcalc.files.bundled import starting_structure
from blipcalc.monitor.fit_limits import check_reference, element_quantiles
from blipcalc.monitor.limits import Limits
from blipcalc.predictor import BayesianPredictor

INTERVAL = 100.0


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """Twelve replicas of 21 frames, ethanol shaken by 0.02 Å: not MD, but trajectories."""
    folder = tmp_path_factory.mktemp("reference")
    for k in range(12):
        rng, frames = np.random.default_rng(k), []
        for _ in range(21):
            atoms = starting_structure("ethanol")
            atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
            frames.append(atoms)
        write(folder / f"replica-{k}.traj", frames)
    return [folder / f"replica-{k}.traj" for k in range(12)]


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in ("check", *arguments)])
    if result.exception:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def made(replicas, tmp_path_factory):
    path = tmp_path_factory.mktemp("limits") / "limits.json"
    text = call(
        "rmd17", *replicas, "--tolerance", 0.5, "--interval-fs", INTERVAL, "--rate", 600, "--n-draws", 8, "-o", path,
        "--surface", "centre", "--confidence", 0.8,
    )  # fmt: skip
    return path, text


def test_it_prints_what_the_reference_carries(made):
    path, text = made
    limits = Limits.load(path)
    assert (limits.n_replicas, limits.tolerance, limits.interval_fs) == (12, 0.5, INTERVAL)
    assert limits.reference_ns == pytest.approx(12 * 21 * INTERVAL / 1e6)
    for said in (
        "12 replicas",
        "at R = 1",
        "trip",
        "smoothed",
        "no evidence: ",
        "at most 600 with 80% confidence",
    ):
        assert said in text


def test_r_is_what_the_calculator_says(made, replicas):
    limits, frames = Limits.load(made[0]), read(replicas[0], ":")
    calc = BayesianCalculator("rmd17", n_draws=8, surface="centre")
    q = element_quantiles(calc.calibration, 0.95)
    assert q == limits.quantiles
    largest = [
        max(q[s] * std / 0.5 for s, std in zip(a.symbols, calc.get_property("atom_std", a), strict=True))
        for a in frames
    ]
    predictor = BayesianPredictor.load("rmd17", n_draws=8, surface="centre")
    seen = check_reference(
        predictor, [frames], interval_fs=INTERVAL, tolerance=0.5, rate_per_ns=200, criteria=["trip"], confidence=0.2
    )
    assert seen["trip"].limit.value == pytest.approx(max(largest), rel=1e-9)


def test_a_run_is_guarded_by_them(made):
    atoms = starting_structure("ethanol")
    atoms.calc = BayesianCalculator("rmd17", n_draws=8, surface="centre")
    dynamics = Langevin(
        atoms, 0.5 * units.fs, temperature_K=3000, friction=0.1 / units.fs, fixcm=False, rng=np.random.default_rng(0)
    )
    monitor = UncertaintyMonitor(dynamics, limits=made[0])
    dynamics.run(3000)
    assert (monitor.every, monitor.status) == (200, "halted")
    atoms.calc = BayesianCalculator("rmd17", n_draws=16, surface="centre")
    with pytest.raises(LimitsError, match="n_draws is 16, expected 8"):
        UncertaintyMonitor(dynamics, limits=made[0])


def test_what_cannot_be_is_refused(replicas, tmp_path):
    common = ("--tolerance", 0.5, "--interval-fs", INTERVAL, "--n-draws", 8, "-o", tmp_path / "l.json")
    with pytest.raises(LimitsError, match=r"cannot carry 0\.1 false alarms per ns"):
        call("rmd17", *replicas, *common)
    with pytest.raises(DataError, match="cannot be read"):
        call("rmd17", tmp_path / "none.traj", *common)
    (tmp_path / "text.xyz").write_text("nothing\n")
    with pytest.raises(DataError, match="cannot be read"):
        call("rmd17", tmp_path / "text.xyz", *common)
    with pytest.raises(LimitsError, match="calibrated model"):
        call("rmd17", *replicas, "--tolerance", 0.5, "--interval-fs", INTERVAL, "--n-draws", 5)
    assert not (tmp_path / "l.json").exists()
