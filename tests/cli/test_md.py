"""``blipcalc md`` in a job script: the folder that it leaves and the code that it exits with."""

from __future__ import annotations

import json

import pytest
from ase.io import write
from typer.testing import CliRunner

from blipcalc.averages.average import average
from blipcalc.cli.main import app
from blipcalc.errors import ConfigurationError, DataError, SamplingError
from blipcalc.files.bundled import starting_structure
from blipcalc.io import read
from blipcalc.md.run_md import SUMMARY, TRAJECTORY
from blipcalc.monitor.readings import take_reading

FAST = ("--n-draws", 8, "--strategy", "vmap", "--dtype", "float32", "--write-every", 5, "--every", 5)


@pytest.fixture
def ethanol(tmp_path):
    write(tmp_path / "ethanol.xyz", starting_structure("ethanol"))
    return tmp_path / "ethanol.xyz"


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in ("md", *arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_it_finishes_and_goes_on(ethanol, tmp_path):
    folder = tmp_path / "run"
    for time_ps in (0.005, 0.01):
        result = call(ethanol, "--time-ps", time_ps, "--folder", folder, *FAST)
        assert result.exit_code == 0
    assert json.loads(result.stdout)["steps"] == 20
    assert [frame.info["step"] for frame in read(folder / TRAJECTORY)] == [0, 5, 10, 15, 20]


def test_runs_on_each_draw_and_their_averages(ethanol, tmp_path):
    """Nine folders; five steps are far too few for an average, which says so."""
    folder = tmp_path / "all"
    result = call(ethanol, "--time-ps", 0.0025, "--folder", folder, "--independent-runs", "--keep-draws", *FAST)
    assert result.exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == [*(f"draw-{k:03d}" for k in range(8)), "driving"]
    assert {run["status"] for run in json.loads(result.stdout).values()} == {"finished"}
    firsts = {read(folder / f"draw-{k:03d}" / TRAJECTORY, 0).get_potential_energy() for k in range(8)}
    assert len(firsts) == 8
    with pytest.raises(SamplingError, match="driving: 2 frames"):
        average(folder, "energy")


def test_a_halt_has_a_code_of_its_own_and_lasts(ethanol, tmp_path):
    hot = (ethanol, "--time-ps", 0.1, "--temperature-K", 8000, "--folder", tmp_path / "run", *FAST)
    first, second = call(*hot), call(*hot)
    assert (first.exit_code, second.exit_code) == (3, 3)
    assert json.loads((tmp_path / "run" / SUMMARY).read_text())["status"] == "halted"


def test_what_is_not_finite_has_another(ethanol, tmp_path, monkeypatch):
    def broken(calc, driven, step, **asked):
        reading, energy = take_reading(calc, driven, step, **asked)
        return type(reading)(**{**vars(reading), "failure": "forces not finite" if step else ""}), energy

    monkeypatch.setattr("blipcalc.monitor.observer.take_reading", broken)
    result = call(ethanol, "--time-ps", 0.1, "--folder", tmp_path / "run", *FAST)
    assert result.exit_code == 4
    assert "not finite" in json.loads(result.stdout)["reason"]


def test_bad_input_is_named(ethanol, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        call(tmp_path / "none.xyz", "--time-ps", 1)
    with pytest.raises(ConfigurationError, match="not both"):
        call(ethanol, "--time-ps", 1, "--tolerance", 0.5, "--limits", tmp_path / "limits.json")
    with pytest.raises(ConfigurationError, match="positive"):
        call(ethanol, "--time-ps", -1, "--folder", tmp_path / "run", *FAST)
