"""Strings of a file are no commands to a terminal, and no markup on a page."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load
from typer.testing import CliRunner

from blipcalc.cli.main import app, main
from blipcalc.errors import CheckpointWarning, DataError
from blipcalc.files.safetensors_file import write_sealed
from blipcalc.report.page import write_report
from blipcalc.text import printable

#: clear the screen, set the title, write backwards, go back to the start of the line
ODD = "\x1b[2J\x1b]0;title\x07 \u202etxet\u202c \rok \x9b31m \x7f"


def is_quiet(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


def test_text_is_written_out():
    assert not is_quiet(ODD)
    assert is_quiet(printable(ODD))
    assert printable("\x1b[2J") == "\\x1b[2J"
    assert printable("\u202ea\ud800") == "\\u202ea\\ud800"
    plain = "1.0954 ± 0.0012 eV/Å, α ≤ 3 σ …\n\tnext line"
    assert printable(plain) == plain


def test_errors_and_warnings_are_printable():
    assert is_quiet(str(DataError(f"file {ODD}")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(f"passed over {ODD}", CheckpointWarning, stacklevel=1)
    assert is_quiet(str(caught[0].message))


@pytest.fixture
def odd_model(written, tmp_path) -> Path:
    """A model file whose seal is right and whose record of the training is not kind to terminals."""
    content = written["model with calibrations"].files[0].read_bytes()
    (tmp_path / "whole").write_bytes(content)
    with safe_open(tmp_path / "whole", "pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
    training = {
        "command": f"blipcalc train {ODD}",
        "machine": ODD,
        "wall_seconds": ODD,
        "n_train": ODD,
        "data": {"files": {ODD: ODD}},
        "versions": {ODD: ODD},
        "alpha": {"layers": {ODD: [0.1, 0.2, 0.3]}, "near_bound": 0.1},
        "posterior_fit": {ODD: 1.0},
    }
    write_sealed(tmp_path / "odd.blip", load(content), manifest | {"training": training})
    return tmp_path / "odd.blip"


def test_info_prints_no_escapes_of_a_manifest(odd_model):
    for more in ([], ["--json"]):
        result = CliRunner().invoke(app, ["info", str(odd_model), *more])
        assert result.exit_code == 0, result.output
        assert "2J" in result.output
        assert is_quiet(result.output)


def test_an_error_about_a_file_prints_no_escapes(odd_model, tmp_path, monkeypatch, capsys):
    with safe_open(tmp_path / "whole", "pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
    for change in ({"surface": ODD}, {ODD: 1}, {"schema_version": ODD}, {"model_hash": ODD}):
        write_sealed(odd_model, load((tmp_path / "whole").read_bytes()), manifest | change)
        monkeypatch.setattr("sys.argv", ["blipcalc", "evaluate", str(odd_model), str(odd_model)])
        with pytest.raises(SystemExit):
            main()
        said = capsys.readouterr()
        assert "Error" in said.err
        assert is_quiet(said.err + said.out)


def test_a_report_takes_odd_words_of_a_log_as_words(written, tmp_path):
    shutil.copytree(written["summary of a run"].files[0].parent, tmp_path / "run")
    line = json.loads(written["events"].files[0].read_text().splitlines()[0])
    odd = {"event": f"$\\frac{{ {ODD}", "reason": f"<script>{ODD}</script>", "unit": "</td>"}
    (tmp_path / "run" / "events.jsonl").write_text(json.dumps(line | odd) + "\n")
    page = write_report(tmp_path / "run").read_text()
    assert is_quiet(page)
    assert "&lt;script&gt;" in page
    assert "<script>\\x1b" not in page


def test_commands_have_one_way_to_the_terminal():
    import blipcalc.cli

    for path in Path(blipcalc.cli.__file__).parent.glob("*.py"):
        source = path.read_text()
        assert "print(" not in source
        assert source.count("typer.echo(") == (1 if path.name == "options.py" else 0), path
