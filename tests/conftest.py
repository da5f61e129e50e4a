"""Small networks, draws and structures that many tests share."""

from __future__ import annotations

import copy

import pytest
import torch
from ase import Atoms
from ase.build import molecule as ase_molecule
from chance import (  # noqa: F401  (hooks and fixtures)
    chance,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_generate_tests,
    pytest_pyfunc_call,
    seed_offset,
    seeds,
)
from known_averages import (  # noqa: F401  (fixtures)
    argon,
    frames_of,
    kT,
    lj,
    morse,
    offset_squares,
    stiffness,
    well,
)
from small_trainings import no_events, small  # noqa: F401  (fixtures)
from toys import toys  # noqa: F401  (fixture)

from blipcalc import testing
from blipcalc.models.build import build_model
from blipcalc.posteriors.blip import BlipPosterior, bayesianize
from blipcalc.posteriors.variational import VariationalLinear

SPECIES = (1, 7)
SIZES = {
    "painn": {"features": 16, "interactions": 2, "n_radial": 8, "cutoff": 4.0},
    "schnet": {"features": 16, "filters": 16, "interactions": 2, "n_radial": 12, "cutoff": 4.0},
    "visnet": {"features": 16, "layers": 2, "heads": 4, "n_radial": 8, "cutoff": 4.0},
}


@pytest.fixture(scope="session")
def make_backbone():
    """(name, seed, **sizes) -> a small network in float64, biases and all perturbed."""

    def make(name="painn", seed=0, **sizes):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(name, SIZES[name] | sizes, SPECIES)
        return testing.perturbed(model.double(), scale=0.05, seed=seed)

    return make


@pytest.fixture(scope="session")
def make_blip(make_backbone):
    """(name, seed, perturb, **settings) -> a small BLIP in float64, whose α differ between atoms, pairs and layers."""

    def make(name="painn", seed=0, perturb=0.05, **settings):
        backbone = make_backbone(name, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 100)
            model = bayesianize(backbone, **({"alpha_initial": 0.03} | settings)).double()
        return testing.perturbed(model, scale=perturb, seed=seed + 1)

    return make


@pytest.fixture(scope="session")
def draw():
    """(model, n, seed) -> n draws of the noise of a BLIP."""

    def make(model, n, seed=0):
        return BlipPosterior(model.slot_shapes()).draw(n, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def baked():
    """(model, draws, k) -> a copy whose slots hold the noise of draw k: one frozen surface as a plain model."""

    def make(model, draws, k=0):
        model = copy.deepcopy(model)
        for name, module in model.named_modules():
            if isinstance(module, VariationalLinear) and f"{name}.weight_noise" in draws.overrides:
                module.weight_noise = draws.overrides[f"{name}.weight_noise"][k].to(module.weight)
        return model

    return make


@pytest.fixture
def molecule():
    """Five atoms in general position."""
    return testing.default_structures(SPECIES)[0]


@pytest.fixture
def crystal():
    """Four atoms in a triclinic cell smaller than the cutoff."""
    return testing.default_structures(SPECIES)[1]


@pytest.fixture
def ammonia() -> Atoms:
    """NH3, atom 0 is N; as many directed pairs as vector components, 12."""
    return ase_molecule("NH3")
