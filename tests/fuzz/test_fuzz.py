"""Whatever goes in: a finite result, or an error with a name that says what to do.

``pytest -m slow tests/fuzz`` or ``python tests/fuzz/run.py --inputs 100000`` for many.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blipcalc.errors import ConfigurationError

TARGETS = (
    "structures", "batches", "files_of_structures", "settings_of_calculator", "settings_of_monitor", "runs",
    "settings_of_limits", "settings_of_training", "files", "command_lines", "relaxations", "properties", "averages",
)  # fmt: skip


def defects(counts):
    return [f"{name}: {kind}" for name, found in counts.items() for kind in found if kind.startswith("DEFECT")]


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_hypothesis_ends_without_a_name(fuzz, shop, name):
    tools, folder = shop

    @settings(max_examples=4 if name == "command_lines" else 40, derandomize=True, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def tried(data):
        source = fuzz.Drawn(data, st)
        found = fuzz.outcome(lambda: fuzz.BY_NAME[name](source, tools, folder), folder)
        fuzz.tidy(folder)
        assert not found.defect

    tried()


def test_few_of_many_seeds(fuzz):
    counts = fuzz.sweep(1000, first=10**6)
    assert set(counts) == set(TARGETS)
    assert not defects(counts)
    # half of the structures are evaluated, or this would say little
    assert counts["structures"]["result"] > 0.2 * counts["structures"].total()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_inputs(fuzz):
    counts = fuzz.sweep(100_000)
    assert sum(found.total() for found in counts.values()) >= 99_000
    assert not defects(counts)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda: {"forces": np.array([1.0, np.nan])}, "silent: result.forces is not finite"),
        (lambda: [1.0, (2.0, math.inf)], "silent"),
        (lambda: [][0], "IndexError"),
        (lambda: np.linalg.inv(np.zeros((2, 2))), "LinAlgError"),
        (lambda: int("x"), "ValueError"),
    ],
)
def test_control_what_is_wrong_is_seen(fuzz, tmp_path, broken, says):
    found = fuzz.outcome(broken, tmp_path)
    assert says in found.defect
    assert found.kind == "defect"


def test_control_an_error_without_a_message_and_what_is_left_behind(fuzz, tmp_path):
    def silent():
        raise ConfigurationError("")

    assert "without a message" in fuzz.outcome(silent, tmp_path).defect
    (tmp_path / ".a.blip.1.2.tmp").touch()
    assert "left behind" in fuzz.outcome(lambda: 1.0, tmp_path).defect


def test_control_a_calculator_that_hides_a_nan(fuzz, shop, monkeypatch):
    """With the check on the way out switched off, the sweep finds what comes out."""
    from blipcalc.core import prediction

    tools, folder = shop
    calc = tools.calculators[0]

    def broken(samples):
        samples.energy[:] = np.nan

    monkeypatch.setattr(prediction, "_check_finite", broken)
    atoms = tools.sound(np.random.default_rng(99))
    found = fuzz.outcome(lambda: calc.get_property("energy", atoms), folder)
    assert "not finite" in found.defect
