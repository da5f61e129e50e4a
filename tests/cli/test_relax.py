"""``blipcalc relax``: what it writes and the code that it exits with."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.io import write
from ase.optimize.optimize import Optimizer
from PIL import Image
from typer.testing import CliRunner

from blipcalc.cli.main import app
from blipcalc.errors import ConfigurationError, SingularCellError
from blipcalc.files.bundled import starting_structure
from blipcalc.io import read
from blipcalc.model_file import model_file as checkpoint
from blipcalc.stats.estimate import Estimate


@pytest.fixture
def ethanol(tmp_path):
    atoms = starting_structure("ethanol")
    atoms.rattle(0.02, seed=0)
    write(tmp_path / "ethanol.xyz", atoms)
    return tmp_path / "ethanol.xyz"


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in ("relax", *arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_molecule_with_its_table_picture_and_draws(ethanol, tmp_path):
    folder = tmp_path / "relaxed"
    result = call(ethanol, "--folder", folder, "--n-draws", 8, "--surface", "centre")
    assert result.exit_code == 0
    assert "O2-H8" in result.stdout
    assert "±" in result.stdout
    stored = json.loads((folder / "relaxation.json").read_text())
    positions = Estimate.from_dict(stored["positions"])
    assert positions.calibrated
    draws = read(folder / "draws.traj")
    assert len(draws) == 8
    bond = Estimate.from_dict(stored["bonds"]["O2-H8"])
    assert np.allclose(bond.draws, [atoms.get_distance(2, 8) for atoms in draws], atol=1e-12)
    (relaxed,) = read(folder / "relaxed.extxyz", ":")
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() < max(0.01, 0.3 * relaxed.calc.results["atom_std"].max())
    picture = np.asarray(Image.open(folder / "picture.png").convert("RGB"))
    assert picture.std() > 5


def test_an_element_without_calibration_has_no_error_bars(ethanol, tmp_path, monkeypatch):
    load = checkpoint.load

    def without_oxygen(name):
        stored = load(name)
        for calibration in stored.calibrations:
            calibration.scale.pop(8)
        return stored

    monkeypatch.setattr(checkpoint, "load", without_oxygen)
    folder = tmp_path / "relaxed"
    assert call(ethanol, "--folder", folder, "--n-draws", 8, "--surface", "centre").exit_code == 0

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    stored = json.loads((folder / "relaxation.json").read_text(), parse_constant=refuse)
    energy, bond = Estimate.from_dict(stored["energy"]), Estimate.from_dict(stored["bonds"]["O2-H8"])
    assert np.isfinite(energy.std)
    assert np.isnan(bond.std)
    assert np.isfinite(bond.draws).all()


def test_codes_for_a_halt_and_for_too_few_steps(ethanol, tmp_path):
    few = call(ethanol, "--folder", tmp_path / "few", "--steps", 1, "--n-draws", 8, "--z", 0, "--fmax", 1e-4)
    assert few.exit_code == 6
    halted = call(ethanol, "--folder", tmp_path / "halted", "--tolerance", 1e-3, "--n-draws", 8)
    assert halted.exit_code == 3
    assert "halted" in halted.stdout


def test_bad_input_has_a_name(ethanol, tmp_path):
    with pytest.raises(SingularCellError):
        call(ethanol, "--folder", tmp_path / "a", "--cell", "free")
    with pytest.raises(ConfigurationError, match="six of 0 and 1"):
        call(ethanol, "--folder", tmp_path / "a", "--cell", "1,2,3")
    with pytest.raises(ConfigurationError, match="folder"):
        call(ethanol, "--folder", ethanol)


def test_an_interrupt_leaves_the_way_and_says_where(ethanol, tmp_path, monkeypatch):
    def interrupted(self, fmax=0.05, steps=None):
        for done, converged in enumerate(irun(self, fmax, steps)):
            if done == 3:
                raise KeyboardInterrupt
            yield converged

    irun = Optimizer.irun
    monkeypatch.setattr(Optimizer, "irun", interrupted)
    result = call(ethanol, "--folder", tmp_path / "out", "--n-draws", 8)
    assert result.exit_code == 5
    assert str(tmp_path / "out" / "path.traj") in result.stderr
    monkeypatch.undo()
    assert len(read(tmp_path / "out" / "path.traj")) == 4  # where it began, and three steps
    again = call(tmp_path / "out" / "path.traj", "--folder", tmp_path / "again", "--n-draws", 8)
    assert again.exit_code == 0
