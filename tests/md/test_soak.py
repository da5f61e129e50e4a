"""A long guarded run takes no more memory at its end than after its beginning, but for a row of the history a check."""

from __future__ import annotations

import importlib.util
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from blipcalc.monitor.history import History

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("blipcalc_soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def fill(history, n):
    for i in range(n):
        numbers = {name: 0.1 * i for name, kind in History.columns.items() if kind is float}
        history.append(step=i, worst_atom=i, breached=i % 2 == 0, **numbers)


def test_a_check_takes_less_than_a_hundred_bytes_in_the_history():
    tracemalloc.start()
    try:
        history, n = History(), 5000
        fill(history, n)
        assert tracemalloc.get_traced_memory()[0] / n < 100
    finally:
        tracemalloc.stop()
    assert len(history) == n
    assert history["breached"].dtype == bool
    assert history["step"][-1] == n - 1
    assert history.last("breached") is False


def test_columns_are_copies_and_rows_of_one_step_replace_each_other(tmp_path):
    history = History()
    fill(history, 3)
    history["energy"][:] = np.nan
    assert np.isfinite(history["energy"]).all()
    history.keep_csv(tmp_path / "h.csv")
    fill(history, 0)
    row = dict.fromkeys(history.columns, 7.0) | {"step": 2}
    history.append(**row)
    assert (len(history), history.last("energy")) == (3, 7.0)
    history.keep_csv(tmp_path / "h.csv")
    again = History()
    again.load_csv(tmp_path / "h.csv", last_step=10)
    assert all(np.array_equal(again[name], history[name]) for name in history.columns)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_stays_flat(soak, tmp_path):
    found = soak.soak(100_000, tmp_path / "run")
    assert (found.steps, found.checks, found.channels) == (100_000, 10_001, 3)
    assert found.leaked_MB < 1.0
    assert found.history_MB * soak.MB < 100 * found.checks


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_control_what_leaks_is_seen(soak, tmp_path):
    """A kilobyte a check is ten megabytes in the end."""
    kept = []
    found = soak.soak(100_000, tmp_path / "run", leak=lambda: kept.append(bytearray(1024)))
    assert found.leaked_MB > 5.0
