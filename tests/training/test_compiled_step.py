"""A compiled training step is the plain one: energies, forces and gradients, for every model, likelihood and kind of draws."""

from __future__ import annotations

import pytest
import torch

from blipcalc.core.graph import Graph
from blipcalc.models.registry import build_model
from blipcalc.posteriors.blip import bayesianize
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
