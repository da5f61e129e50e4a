"""Planted bugs: rows that still fit the code at every push, and all of them against the fast tests at night."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
TESTS, PACKAGE = FOLDER.parent, FOLDER.parents[1] / "blipcalc"


@pytest.fixture(scope="module")
def runner():
    """The module ``run.py`` beside this file."""
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("blipcalc_mutants_run", FOLDER / "run.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FOLDER))


def test_every_row_fits_the_code(runner):
    """Its text occurs once, what replaces it is a program, and its tests are there."""
    assert len(runner.MUTANTS) >= 25
    assert not [name for name, n in Counter(mutant.name for mutant in runner.MUTANTS).items() if n > 1]
    for mutant in runner.MUTANTS:
        text = (PACKAGE / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, f"{mutant.name}: {text.count(mutant.old)} times in {mutant.file}"
        compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
        assert mutant.tests, mutant.name
        for test in mutant.tests:
            file, _, node = test.partition("::")
            function = node.partition("::")[2] or node
            assert f"def {function.partition('[')[0]}" in (TESTS / file).read_text(encoding="utf-8"), test


def test_a_text_that_has_moved_is_an_error(runner, tmp_path):
    (tmp_path / "blipcalc").mkdir()
    for text in ("nothing of it", "a row, and a row"):
        (tmp_path / "blipcalc" / "x.py").write_text(text)
        with pytest.raises(ValueError, match="expected once"):
            runner.apply(runner.Mutant("name", "wrong", "x.py", "a row", "another", ()), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("new", ["import numpy as nothing", "import nothing_of_that_name", "import numpy as"])
def test_a_copy_that_is_no_program_is_not_caught(runner, new):
    """Control: tests that cannot run have not seen the bug."""
    mutant = runner.Mutant("control", "", "stats/spread.py", "import numpy as np", new, ("stats/test_spread.py",))
    outcome = runner.tried(mutant)
    assert (outcome.passed, outcome.caught, runner.decision(outcome)) == (False, False, "BROKEN")


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_all_bugs_are_caught(runner):
    assert runner.main([]) == 0
