"""A package of somebody else adds a model, a posterior, a criterion and an observable, without a line changed here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS, ROOT = HERE.parent, HERE.parents[1]
KINDS = ("models", "posteriors", "criteria", "properties")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that the package is installed in."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def run(*arguments, site=None):
    paths = [ROOT, TESTS, *([site] if site else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=280
    )


@pytest.fixture(scope="module")
def lived(site, tmp_path_factory):
    """(folder, what came out) of the whole life of a model."""
    folder = tmp_path_factory.mktemp("life")
    done = run(HERE / "life.py", folder, site=site)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_every_kind_is_one_file_of_150_lines_at_most():
    files = [path for path in (HERE / "blipcalc_example").glob("*.py") if path.stat().st_size]
    assert len(files) == len(KINDS)
    assert all(len(path.read_text().splitlines()) <= 150 for path in files)


def test_nothing_here_names_it():
    """Neither the package nor its command line knows a word of it."""
    words = re.compile(r"blipcalc_example|blipcalc-example|[\"']snapshots[\"']|[\"']gyration[\"']")
    assert not [str(path) for path in (ROOT / "blipcalc").rglob("*.py") if words.search(path.read_text())]


def test_it_keeps_the_contracts(site, tmp_path):
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, HERE / "contracts.py", site=site)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 25


def test_it_trains_calibrates_and_guards(lived):
    _, found = lived
    assert (found["model"], found["posterior"]) == ("Radial", "snapshots")
    assert found["sound"][0] == "finished"
    assert found["tight"][:2] == ["halted", "eV/atom"]
    assert 1.0 < found["gyration"] < 1.6  # 1.24 Å in the structure that MD starts from


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ("radial", "snapshots: The last networks that a training went through")),
        ("check", ("energy: The error bar of the energy, per atom",)),
        ("average", ("gyration, Å: radius of gyration of all atoms",)),
    ],
)
def test_the_command_line_shows_it(site, command, words):
    def shown(site):
        text = run("-m", "blipcalc", command, "--help", site=site).stdout
        return re.sub(r"[│\s]+", " ", text)

    assert all(word in shown(site) for word in words)
    assert not any(word in shown(None) for word in words)


def test_help_imports_neither_torch_nor_the_package(site):
    code = (
        "import sys; sys.argv[1:] = ['train', '--help']\nfrom blipcalc.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'blipcalc_example') if name in sys.modules])"
    )
    assert run("-c", code, site=site).stdout.splitlines()[-1] == "[]"


def test_without_it_files_say_what_to_install(lived):
    folder, _ = lived
    found = run("-c", f"import blipcalc; blipcalc.load({str(folder / 'm.blip')!r})")
    assert "SchemaError" in found.stderr
    assert "the model 'radial' is of blipcalc-example 1.0, which is not installed: install it" in found.stderr
    code = f"from blipcalc.monitor.limits import Limits; Limits.load({str(folder / 'limits.json')!r})"
    found = run("-c", code)
    assert "LimitsError" in found.stderr
    assert "the criterion 'energy' is of blipcalc-example 1.0, which is not installed: install it" in found.stderr
