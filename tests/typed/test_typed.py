"""What the type checker of a user sees: code that is right is clean, and mistakes are found."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import blipcalc
from blipcalc.calibration.evaluation import Scoring, evaluate_residuals
from blipcalc.monitor.monitor_settings import MonitorSettings
from blipcalc.predictor import BayesianPredictor, Computing

HERE = Path(__file__).parent
#: as a careful user has it; calls into packages without types are not ours to judge
OPTIONS = ("--strict", "--allow-untyped-calls", "--ignore-missing-imports", "--follow-imports=silent", "--no-pretty")


@pytest.mark.timeout(600)
def test_a_type_checker_finds_mistakes_and_nothing_else(tmp_path: Path) -> None:
    """One run over both files: most of its time goes into the packages that they import."""
    pytest.importorskip("mypy")
    package = Path(blipcalc.__file__).parent
    assert (package / "py.typed").is_file()
    environment = dict(os.environ)
    if "site-packages" not in package.parts:  # where it is installed it is found by itself
        environment["MYPYPATH"] = str(package.parent)
    files = [HERE / "a_user.py", HERE / "mistakes.py"]
    cache = ("--config-file=", f"--cache-dir={tmp_path / 'cache'}")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *OPTIONS, *cache, *map(str, files)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"^(?:.*/)?(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, flags=re.MULTILINE)
    lines = enumerate((HERE / "mistakes.py").read_text(encoding="utf-8").splitlines(), start=1)
    expected = [("mistakes", str(n), code) for n, line in lines for code in re.findall(r"# finds: ([\w-]+)$", line)]
    assert len(expected) > 10
    assert sorted(set(found)) == sorted(expected), done.stdout


def test_the_users_code_has_every_name_of_the_front_door() -> None:
    used = re.findall(r"\w+", (HERE / "a_user.py").read_text(encoding="utf-8"))
    assert set(blipcalc.__all__) <= set(used)


@pytest.mark.parametrize(
    ("settings", "function", "own"),
    [
        (MonitorSettings, blipcalc.UncertaintyMonitor, {"dynamics"}),
        (Scoring, evaluate_residuals, {"residuals", "foreign"}),
        (Computing, BayesianPredictor, {"model", "posterior", "n_draws", "seed", "surface", "calibration", "domain"}),
    ],
)
def test_settings_that_are_handed_on_are_those_of_the_function(settings: type, function: object, own: set[str]) -> None:
    """own : parameters that are not handed on."""
    taken = {name: p.annotation for name, p in inspect.signature(function).parameters.items() if name not in own}
    assert {name: hint.__forward_arg__ for name, hint in settings.__annotations__.items()} == taken
