"""Registries: what is there, whose names win, and what is said of what is not; tests/plugin has a whole package of another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blipcalc import registries
from blipcalc.errors import ConfigurationError
from blipcalc.models.painn import PaiNN
from blipcalc.registries import MODELS, Registry

ROOT = Path(__file__).parents[1]
ALL = [value for value in vars(registries).values() if isinstance(value, Registry)]


def test_all_of_our_own_are_there_with_words():
    assert len(ALL) == 4
    for registry in ALL:
        for name in registry.own:
            assert callable(registry[name])
            assert registry.words(name), f"{registry.kind} {name} says nothing for the command line"
            assert registry.package(name) == ""
    assert MODELS.name_of(PaiNN) == "painn"


def test_names_of_our_own_cannot_be_taken(tmp_path):
    """A folder that Python takes for an installed package with two entry points."""
    information = tmp_path / "plug-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[blipcalc.models]\nmine = plug:Mine\npainn = plug:Mine\n")
    code = (
        "from blipcalc.registries import MODELS as M; print(M['painn'].__module__, M.names()[-1], M.package('mine'), '/', "
        "M.package('painn'))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["blipcalc.models.painn", "mine", "plug", "1.0", "/"]


def test_what_is_unknown_is_named():
    registry = Registry("thing", "blipcalc.no_such_group", {"one": "blipcalc.models.painn:PaiNN"})
    with pytest.raises(ConfigurationError, match=r"unknown thing 'onne'; did you mean 'one'\? Known: one"):
        registry["onne"]
    with pytest.raises(ConfigurationError, match=r"builtins\.int is not a registered thing; known: one"):
        registry.name_of(int)
    with pytest.raises(ConfigurationError, match=r"the thing 'two' is of their 2\.0, which is not installed"):
        registry.get("two", "their 2.0")
