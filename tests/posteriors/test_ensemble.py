"""Ensembles, mixtures of BLIPs and the point estimate: which networks a draw is, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blipcalc.core.contracts import Draws
from blipcalc.core.evaluate import evaluate
from blipcalc.core.graph import Graph
from blipcalc.errors import DrawsError
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.posteriors.ensemble import EnsemblePosterior, MixturePosterior, stack_members
from blipcalc.posteriors.point import PointPosterior
from blipcalc.predictor import BayesianPredictor


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ensemble(members):
    return EnsemblePosterior(stack_members([m.state_dict() for m in members]))


def same(a, b, tolerance=1e-12):
    scale = max(1.0, float(b.energy.abs().max()), float(b.forces.abs().max()))
    for name in ("energy", "forces"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=tolerance * scale)


def test_draws_of_an_ensemble_are_its_members_in_order(make_backbone, molecule):
    members = [make_backbone(seed=seed) for seed in range(4)]
    graph = Graph.from_atoms(molecule, 4.0)
    posterior = ensemble(members)
    assert posterior.most_draws == 4
    alone = [evaluate(m, Draws(1), graph) for m in members]
    for host in (members[0], members[3]):
        for n in (1, 3, 4):
            samples = evaluate(host, posterior.draw(n, generator=generator(n)), graph)
            for k in range(n):
                same(type(samples)(samples.energy[k : k + 1], samples.forces[k : k + 1], None, None), alone[k])
    assert torch.cat([a.energy for a in alone]).std() > 1e-3


@pytest.mark.parametrize("n", [0, 5, 16])
def test_an_ensemble_refuses_more_draws_than_members(make_backbone, n):
    posterior = ensemble([make_backbone(seed=seed) for seed in range(4)])
    with pytest.raises(DrawsError, match=f"4 members.*{n}"):
        posterior.draw(n, generator=generator())


def test_an_ensemble_has_no_centre(make_backbone):
    members = [make_backbone(seed=seed) for seed in range(2)]
    with pytest.raises(DrawsError, match="no centre"):
        ensemble(members).centre()
    with pytest.raises(DrawsError, match="surface='mean'"):
        BayesianPredictor(members[0], ensemble(members), n_draws=2, surface="centre")


def test_members_of_another_architecture_are_refused(make_backbone):
    with pytest.raises(DrawsError, match="member 1 has another architecture"):
        ensemble([make_backbone(), make_backbone(features=8)])
    with pytest.raises(DrawsError, match="member 2 has another architecture"):
        ensemble([make_backbone(), make_backbone(seed=1), make_backbone(interactions=1)])


def mixture(make_blip, n_members=3):
    members = [make_blip(seed=seed) for seed in range(n_members)]
    noise = BlipPosterior(members[0].slot_shapes())
    return members, MixturePosterior(stack_members([m.state_dict() for m in members]), noise)


def test_draws_of_a_mixture_are_balanced_and_those_of_its_members(make_blip, molecule):
    members, posterior = mixture(make_blip)
    graph = Graph.from_atoms(molecule, 4.0)
    draws = posterior.draw(8, generator=generator(7))
    noise = posterior.noise.draw(8, generator=generator(7))
    host = members[1]
    samples = evaluate(host, draws, graph)
    owners = []
    for k in range(8):
        own = [evaluate(m, noise[k : k + 1], graph) for m in members]
        distances = [abs(o.energy[0, 0] - samples.energy[k, 0]).item() for o in own]
        owners.append(int(np.argmin(distances)))
        same(type(samples)(samples.energy[k : k + 1], samples.forces[k : k + 1], None, None), own[owners[-1]])
    assert owners == [0, 1, 2, 0, 1, 2, 0, 1]
    fewer = posterior.draw(5, generator=generator(7))
    assert all(torch.equal(value, draws.overrides[name][:5]) for name, value in fewer.overrides.items())


def test_the_centre_of_a_mixture_is_the_mean_of_its_members(make_blip, molecule):
    members, posterior = mixture(make_blip)
    graph = Graph.from_atoms(molecule, 4.0)
    alone = torch.stack([evaluate(m, Draws(1), graph).forces[0] for m in members])
    assert posterior.centre().n == 3
    predictor = BayesianPredictor(members[0], posterior, n_draws=6, surface="centre")
    (prediction,) = predictor([molecule])
    np.testing.assert_allclose(prediction.forces, alone.mean(0).numpy(), rtol=0, atol=1e-12)
    assert prediction.n_draws == 6


def test_a_mixture_spreads_more_than_its_members(make_blip, molecule):
    """Law of total variance with equal weights, on the draws themselves."""
    members, posterior = mixture(make_blip)
    graph = Graph.from_atoms(molecule, 4.0)
    n = 60
    energy = evaluate(members[0], posterior.draw(n, generator=generator(1)), graph, forces=False).energy[:, 0]
    groups = energy.reshape(n // 3, 3)
    within, between = groups.var(0, correction=0).mean(), groups.mean(0).var(correction=0)
    torch.testing.assert_close(energy.var(correction=0), within + between)
    assert between > 0.1 * within


def test_a_point_estimate_has_one_draw(make_backbone, molecule):
    backbone, posterior = make_backbone(), PointPosterior()
    assert not posterior.is_random
    for draws in (posterior.draw(1, generator=generator()), posterior.centre()):
        assert draws.n == 1
        assert not draws.overrides
    for n in (0, 2):
        with pytest.raises(DrawsError, match=f"n=1; got n={n}"):
            posterior.draw(n, generator=generator())
    (prediction,) = BayesianPredictor(backbone, posterior, n_draws=1)([molecule])
    exact = evaluate(backbone, Draws(1), Graph.from_atoms(molecule, 4.0))
    assert prediction.energy == exact.energy.item()
    assert np.array_equal(prediction.forces, exact.forces[0].numpy())
    assert prediction.energy_var is None
    assert prediction.atom_std is None


def test_an_ensemble_of_last_layers_is_linear_gaussian(make_backbone, molecule):
    """E = w · h for the weights of the last layer, so Var E = hᵀ Cov(w) h with the sample covariance of the members."""
    backbone, n = make_backbone(), 12
    weights = torch.randn((n, 1, 8), generator=generator(3), dtype=torch.float64)
    posterior = EnsemblePosterior({"readout_outer.weight": weights})
    graph = Graph.from_atoms(molecule, 4.0)
    features = backbone(graph.tensors(torch.float64)).features
    h = torch.nn.functional.silu(backbone.readout_inner(features)).sum(0).detach().numpy()
    bias = len(molecule) * backbone.readout_outer.bias.item()
    (prediction,) = BayesianPredictor(backbone, posterior, n_draws=n)([molecule])
    w = weights[:, 0].numpy()
    assert prediction.energy == pytest.approx(w.mean(0) @ h + bias, rel=1e-12)
    assert prediction.energy_var == pytest.approx(h @ np.cov(w.T) @ h, rel=1e-11)


def test_reference_energies_of_members_keep_their_digits_in_float32(make_backbone, molecule):
    members = [make_backbone(seed=seed) for seed in range(2)]
    for m in members:
        m.energies.set({1: -13.587222780835477, 7: -2043.6337461234567}, 1.0, m.species)
    single, double = (
        BayesianPredictor(members[0], ensemble(members), n_draws=2, dtype=d) for d in ("float32", "float64")
    )
    assert single([molecule])[0].energy == pytest.approx(double([molecule])[0].energy, abs=1e-5)
