"""Planted bugs against the fast tests:  python tests/mutants/run.py [--only NAME ...]

Each bug is put into a copy of the package, in a folder of its own, and the tests of its row are run there; the control is a copy
without any bug, in which all of them pass.  Prints a table, and ends with 1 where a bug is not caught.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("blipcalc", "tests", "examples", "pyproject.toml")
#: seconds; a test that hangs is no test that fails
LONGEST = 900
#: what a replacement does that is no program any more; tests that fail by it have seen no bug
NO_PROGRAM = ("SyntaxError", "ImportError", "ModuleNotFoundError", "NameError", "UnboundLocalError", "IndentationError")


@dataclass(frozen=True)
class Outcome:
    """What the tests said of one copy.

    passed : all of them; caught : one failed by what it asserts, or by an error on the way there
    said : the line of the failure; seconds : of the tests
    """

    passed: bool
    caught: bool
    said: str
    seconds: float


def copy_tree(folder: Path) -> Path:
    """The package and its tests, in a folder that is made."""
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            shutil.copy2(source, folder / name)
    return folder


def apply(mutant: Mutant, root: Path) -> None:
    """Put the bug in; ValueError where its text is not there exactly once."""
    path = root / "blipcalc" / mutant.file
    text = path.read_text(encoding="utf-8")
    if (n := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.name}: its text occurs {n} times in {mutant.file}, expected once:\n{mutant.old}")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def tested(root: Path, tests: Sequence[str]) -> Outcome:
    """Run tests of a copy on the package of that copy."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    # wide enough for the kind of an error to stand in the last lines
    environment = kept | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "COLUMNS": "400"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    where = [sys.executable, "-c", "import blipcalc; print(blipcalc.__file__)"]
    found = subprocess.run(where, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout
    if not Path(found.strip()).is_relative_to(root):
        raise RuntimeError(f"the tests of {root} would import {found.strip()}")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-rfE", "--tb=line"]
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [*command, *(f"tests/{test}" for test in tests)],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return Outcome(False, False, f"no end after {LONGEST} s", time.perf_counter() - began)
    seconds = time.perf_counter() - began
    # a file that cannot be collected is an ERROR of the whole file, and ends with 2
    failures = re.findall(r"^(?:FAILED|ERROR) (tests/\S+::.*)$", done.stdout, flags=re.MULTILINE)
    said = failures[0] if failures else (done.stdout + done.stderr).strip().splitlines()[-1]
    caught = done.returncode == 1 and bool(failures) and not any(f" - {kind}" in said for kind in NO_PROGRAM)
    return Outcome(done.returncode == 0, caught, said, seconds)


def control(mutants: Sequence[Mutant]) -> Outcome:
    """All tests of all rows, on a copy without a bug."""
    with tempfile.TemporaryDirectory() as name:
        return tested(copy_tree(Path(name)), sorted({test for mutant in mutants for test in mutant.tests}))


def tried(mutant: Mutant) -> Outcome:
    """The tests of a row, on a copy with its bug."""
    with tempfile.TemporaryDirectory() as name:
        root = copy_tree(Path(name))
        apply(mutant, root)
        return tested(root, mutant.tests)


def decision(outcome: Outcome) -> str:
    """In a word."""
    if outcome.passed:
        return "SURVIVED"
    return "caught" if outcome.caught else "BROKEN"


def row(mutant: Mutant, outcome: Outcome) -> str:
    """A line of the table."""
    by = outcome.said.partition(" - ")[0].removeprefix("tests/") if outcome.caught else outcome.said
    return f"| {mutant.name} | {mutant.wrong} | {decision(outcome)} | {by} | {outcome.seconds:.0f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[m.name for m in MUTANTS], metavar="NAME", help="these rows alone")
    only = parser.parse_args(arguments).only
    chosen = [mutant for mutant in MUTANTS if only is None or mutant.name in only]
    began = time.perf_counter()
    without = control(chosen)
    print(f"control: {'all pass' if without.passed else without.said}, {without.seconds:.0f} s\n", flush=True)
    if not without.passed:
        return 1
    print("| bug | what is wrong | | by | s |\n| --- | --- | --- | --- | --- |")
    n_caught = 0
    for mutant in chosen:
        outcome = tried(mutant)
        n_caught += outcome.caught
        print(row(mutant, outcome), flush=True)
    print(f"\n{n_caught} of {len(chosen)} caught, {time.perf_counter() - began:.0f} s in all")
    return 0 if n_caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
