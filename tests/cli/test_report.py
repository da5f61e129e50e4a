"""``blipcalc report`` as a user types it."""

from __future__ import annotations

import pytest
from ase.io import write
from typer.testing import CliRunner

from blipcalc.cli import main
from blipcalc.files.bundled import starting_structure
from blipcalc.model_file.model_file import model_info


def test_a_page_about_a_run_of_the_bundled_model(tmp_path):
    write(tmp_path / "ethanol.xyz", starting_structure("ethanol"))
    folder = tmp_path / "run"
    fast = ("--n-draws", 8, "--strategy", "vmap", "--dtype", "float32", "--write-every", 5, "--every", 5)
    for call in (
        ("md", tmp_path / "ethanol.xyz", "--time-ps", 0.01, "--folder", folder, *fast),
        ("report", folder, "--model", "rmd17"),
    ):
        result = CliRunner().invoke(main.app, [str(a) for a in call])
        assert result.exit_code == 0, result.output
    assert f"wrote {folder / 'report.html'}" in result.output.replace("\n", "")
    text = (folder / "report.html").read_text()
    assert "Finished: 0.01 ps, step 20" in text
    assert "C2H6O" in text
    assert model_info("rmd17")["model_hash"] in text


def test_no_folder_is_bad_input(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["blipcalc", "report", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("DataError: no folder")
