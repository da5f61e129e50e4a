"""Fixtures of small trainings."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from blipcalc.training import logs

SCRIPT = Path(__file__).with_name("small_run.py")


@pytest.fixture(scope="session")
def small():
    """The module ``small_run.py`` beside this file, which also runs as a script."""
    spec = importlib.util.spec_from_file_location("blipcalc_small_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_events(small, monkeypatch):
    """As if TensorBoard were not installed; its import takes longer than the runs."""
    monkeypatch.setattr(logs, "importlib", small.without_events())
