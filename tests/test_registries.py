"""Models and posteriors of other packages: found by entry points, kept in model files, missed by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blipcalc.errors import ConfigurationError
from blipcalc.models.painn import PaiNN
from blipcalc.registries import MODELS, POSTERIORS, Registry

ROOT = Path(__file__).parents[1]

PLUGIN = '''
from dataclasses import dataclass

import torch

from blipcalc.core.contracts import Draws
from blipcalc.errors import DrawsError
from blipcalc.models.painn import PaiNN
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.posteriors.stored import OneNetwork


class Mine(PaiNN):
    """A model of its own."""


@dataclass(frozen=True)
class ShakenPosterior(OneNetwork):
    """The embedding times 1 + spread z, z ~ N(0, 1)."""

    embedding: torch.Tensor
    spread: torch.Tensor
    name = "shaken"

    def draw(self, n, *, generator):
        z = torch.stack([self.numbers(generator)["z"] for _ in range(n)])
        return Draws(n, {"embedding.weight": self.embedding * (1 + self.spread * z[:, None, None])})

    def tensors(self):
        return {"spread": self.spread}

    def numbers(self, generator):
        return {"z": torch.randn((), generator=generator, dtype=torch.float64)}


class Shaken(PosteriorMethod):
    """Noise on the embedding."""

    name = "shaken"

    def restore(self, network, members, tensors):
        if set(tensors) != {"spread"}:
            raise DrawsError("expected one tensor, spread")
        return ShakenPosterior(network.embedding.weight.detach(), tensors["spread"])
'''

MAKE = """
import sys, torch
from ase.build import molecule
from blipcalc import BayesianCalculator, load
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import save_model
from blipcalc.models.build import build_model
from plug import ShakenPosterior

network = build_model("mine", {"features": 8, "interactions": 1}, [1, 8])
posterior = ShakenPosterior(network.embedding.weight.detach(), torch.tensor(0.1))
save_model(Model(network, posterior), sys.argv[1])
model = load(sys.argv[1])
assert (type(model.network).__name__, type(model.posterior).__name__) == ("Mine", "ShakenPosterior")
atoms = molecule("H2O")
atoms.calc = BayesianCalculator(sys.argv[1], n_draws=4, raw=True)
assert atoms.calc.get_property("energy_std", atoms) > 0
"""


@pytest.fixture
def plugged(tmp_path):
    """A folder that Python takes for an installed package with two entry points."""
    site = tmp_path / "site"
    information = site / "plug-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[blipcalc.models]\nmine = plug:Mine\npainn = plug:Mine\n[blipcalc.posteriors]\nshaken = plug:Shaken\n"
    )
    (site / "plug.py").write_text(PLUGIN)
    return site


def run(code, *arguments, site=None):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, *([site] if site else [])]))}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


def test_a_model_and_a_posterior_of_another_package_are_saved_and_loaded(plugged, tmp_path):
    made = run(MAKE, tmp_path / "mine.blip", site=plugged)
    assert made.returncode == 0, made.stderr
    without = run("import sys, blipcalc; blipcalc.load(sys.argv[1])", tmp_path / "mine.blip")
    assert "SchemaError" in without.stderr
    assert "unknown model 'mine'" in without.stderr
    assert "once that package is installed, by its entry point in 'blipcalc.models'" in without.stderr


def test_names_of_our_own_cannot_be_taken(plugged):
    code = "from blipcalc.models.build import MODELS; print(MODELS['painn'].__module__, MODELS.names())"
    found = run(code, site=plugged).stdout
    assert found.split()[0] == "blipcalc.models.painn"
    assert "'mine'" in found


def test_all_of_our_own_are_there():
    for registry in (MODELS, POSTERIORS):
        assert all(isinstance(registry[name], type) for name in registry.own)
    assert MODELS.name_of(PaiNN) == "painn"


def test_what_is_unknown_is_named():
    registry = Registry("thing", "blipcalc.no_such_group", {"one": "blipcalc.models.painn:PaiNN"})
    with pytest.raises(ConfigurationError, match=r"unknown thing 'onne'; did you mean 'one'\? Known: one"):
        registry["onne"]
    with pytest.raises(ConfigurationError, match=r"builtins\.int is not a registered thing; known: one"):
        registry.name_of(int)
