"""The modules of this folder, which also run as a script."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def fuzz():
    """The module ``run.py`` beside this file."""
    sys.path.insert(0, str(Path(__file__).parent))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks of four features
    try:
        spec = importlib.util.spec_from_file_location("blipcalc_fuzz_run", Path(__file__).with_name("run.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        torch.set_num_threads(threads)
        sys.path.remove(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def shop(fuzz):
    """Tools and a folder for inputs."""
    with fuzz.workshop() as (tools, folder):
        yield tools, folder
