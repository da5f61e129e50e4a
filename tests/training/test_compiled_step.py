"""A compiled training step is the plain one: energies, forces and gradients, for every model, likelihood and kind of draws."""

from __future__ import annotations

import pytest
import torch
from ase.build import molecule as molecule_of

from blipcalc.core.compiled import WITHOUT_FAULT
from blipcalc.core.graph import Graph
from blipcalc.errors import CompilationError
from blipcalc.models.build import build_model
from blipcalc.posteriors.blip import BlipPosterior, bayesianize
from blipcalc.training.steps import step_function

SIZES = {
    "painn": {"features": 8, "interactions": 2, "n_radial": 6, "cutoff": 4.0},
    "race": {"hidden": "4x0e+4x1o", "layers": 2, "cutoff": 4.0},
    "schnet": {"features": 8, "filters": 8, "interactions": 2, "n_radial": 6, "cutoff": 4.0},
    "visnet": {"features": 8, "layers": 2, "heads": 2, "n_radial": 6, "cutoff": 4.0},
    "painn, heads": {"features": 8, "interactions": 2, "n_radial": 6, "cutoff": 4.0, "heads": {"predict": "joint"}},
}


def network(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(name.split(",")[0], SIZES[name], (1, 7))


def noisy(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return bayesianize(network(name), alpha_initial=0.02)


def members(model):
    return {n: torch.stack([p.detach(), 1.1 * p.detach()]).requires_grad_() for n, p in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["draws", "members"])
@pytest.mark.parametrize("name", SIZES)
def test_two_stacked_draws_or_members(molecule, crystal, draw, name, kind):
    """The step compares itself, gradients too; here once more on another batch, for which nothing is compiled."""
    torch._dynamo.reset()
    model = noisy(name) if kind == "draws" else network(name)
    overrides = {n: v.float() for n, v in draw(model, 2).overrides.items()} if kind == "draws" else members(model)
    parameters = dict(model.named_parameters()) if kind == "draws" else {}
    plain, compiled = (step_function(model, stacked=True, compiled=c) for c in (False, True))
    for structures in ((molecule, crystal), (crystal, molecule, molecule)):
        graph = Graph.collate([Graph.from_atoms(atoms, model.cutoff) for atoms in structures])
        tensors = graph.tensors(torch.float32)
        found, expected = (step(parameters, overrides, *tensors) for step in (compiled, plain))
        for one, other in zip(found, expected, strict=True):
            if other is not None:
                torch.testing.assert_close(
                    one, other, rtol=1e-4, atol=1e-4 * max(0.1, float(other.detach().abs().max()))
                )


def step_of_many_atoms():
    """(compiled, plain) forces of a BLIP, two draws, on 90 atoms, in float64."""
    torch._dynamo.reset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = bayesianize(build_model("painn", {"features": 32, "interactions": 2}, (1, 6, 8)), alpha_initial=0.02)
    model, frames = model.double(), [molecule_of("CH3CH2OH") for _ in range(10)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.08, seed=seed)
    noise = BlipPosterior(model.slot_shapes()).draw(2, generator=torch.Generator().manual_seed(0)).overrides
    graph = Graph.collate([Graph.from_atoms(atoms, model.cutoff) for atoms in frames])
    tensors = graph.tensors(torch.float64, graph.edge_vectors().double())
    arguments = dict(model.named_parameters()), dict(noise), *tensors
    steps = (step_function(model, stacked=True, compiled=compiled) for compiled in (True, False))
    return [step(*arguments).forces for step in steps]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_step_of_many_atoms():
    compiled, plain = step_of_many_atoms()
    torch.testing.assert_close(compiled, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_control_the_order_that_needs_least_memory_is_wrong(monkeypatch):
    """Why that order is not asked for; and whoever asks for it is refused."""
    if not torch.__version__.startswith("2.13."):
        pytest.skip("known of torch 2.13")
    monkeypatch.setitem(WITHOUT_FAULT, "reorder_for_peak_memory", True)
    with pytest.raises(CompilationError, match="forces by"):
        step_of_many_atoms()
