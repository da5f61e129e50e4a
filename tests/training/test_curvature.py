"""Laplace over all weights: derivatives against differences, predictions of the linearised network against its exact variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from blipcalc import BayesianCalculator
from blipcalc.bayes.gaussian import GaussianPosterior
from blipcalc.checkpoint import load_model
from blipcalc.core.contracts import Draws, place_draws
from blipcalc.core.evaluate import evaluate
from blipcalc.training.batches import labelled_graphs
from blipcalc.training.curvature import curvature, fit_all_weights
from blipcalc.training.run import train


@pytest.fixture
def case(small):
    """A small network in float64 and its labelled graphs."""
    frames = small.pairs(12, noise=0.1)
    model = small.network(frames).double()
    return model, labelled_graphs(frames, model.cutoff)


def jacobian(model, graph):
    """{parameter: (1 + 3n, size)} by central differences in the weights."""
    found = {}
    for name, p in model.named_parameters():
        columns = []
        for k in range(p.numel()):
            step = torch.zeros(p.numel(), dtype=torch.float64)
            step[k] = 1e-5
            step = step.view(p.shape)
            both = torch.stack([p.detach() + step, p.detach() - step])
            s = evaluate(model, Draws(2, {name: both}), graph)
            rows = torch.cat([s.energy, s.forces.flatten(1)], dim=1)
            columns.append((rows[0] - rows[1]) / 2e-5)
        found[name] = torch.stack(columns, dim=1)
    return found


def test_curvature_is_the_sum_of_squared_derivatives(case):
    model, graphs = case
    found = curvature(model, graphs[:2])
    exact = [jacobian(model, graph) for graph in graphs[:2]]
    for name, p in model.named_parameters():
        energy = sum(j[name][0].square() for j in exact).view(p.shape)
        forces = sum(j[name][1:].square().sum(dim=0) for j in exact).view(p.shape)
        torch.testing.assert_close(found.energy[name], energy, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(found.forces[name], forces, rtol=1e-5, atol=1e-8)
    assert found.n == (2, 18)


def test_linear_draws_are_the_tangent_of_the_network(case):
    """Energy and forces at θ + δ of the linearised network, by differences; every strategy gives them."""
    model, graphs = case
    generator = torch.Generator().manual_seed(0)
    away = {
        n: 0.1 * torch.randn(3, *p.shape, generator=generator, dtype=torch.float64) for n, p in model.named_parameters()
    }
    theta = {n: p.detach() for n, p in model.named_parameters()}
    linear = Draws(3, {n: theta[n] + away[n] for n in theta}, linear=True)
    loop, vmap, traced = (evaluate(model, linear, graphs[0], strategy=s) for s in ("loop", "vmap", "traced"))
    for key in ("energy", "forces", "energies"):
        torch.testing.assert_close(getattr(vmap, key), getattr(loop, key), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(getattr(traced, key), getattr(loop, key), rtol=1e-10, atol=1e-10)
    h = 1e-5
    up, down = (
        evaluate(model, Draws(3, {n: theta[n] + sign * h * away[n] for n in theta}), graphs[0]) for sign in (1, -1)
    )
    centre = evaluate(model, Draws(1), graphs[0])
    for key in ("energy", "forces"):
        expected = getattr(centre, key) + (getattr(up, key) - getattr(down, key)) / (2 * h)
        torch.testing.assert_close(getattr(loop, key), expected, rtol=1e-6, atol=1e-7)
    # the control: the network itself is elsewhere
    itself = evaluate(model, Draws(3, linear.overrides), graphs[0])
    assert float((itself.energy - loop.energy).abs().max()) > 1e-3
    assert linear[:2].linear
    assert place_draws(model, linear).linear


def test_draws_have_the_variance_of_the_linear_model_and_its_mean_is_the_network(case):
    model, graphs = case
    posterior, _ = fit_all_weights(model, graphs)
    exact = jacobian(model, graphs[0])
    variance = sum((exact[n].square() * posterior.std[n].flatten().square()).sum(dim=1) for n in exact)
    k = 3000
    draws = place_draws(model, posterior.draw(k, generator=torch.Generator().manual_seed(1)))
    s = evaluate(model, draws, graphs[0])
    rows = torch.cat([s.energy, s.forces.flatten(1)], dim=1)
    np.testing.assert_allclose(rows.var(dim=0), variance, rtol=5 * math.sqrt(2 / k))
    centre = evaluate(model, Draws(1), graphs[0])
    middle = torch.cat([centre.energy, centre.forces.flatten(1)], dim=1)[0]
    np.testing.assert_allclose((rows.mean(dim=0) - middle) / variance.sqrt(), 0.0, atol=5 / math.sqrt(k))


def test_hyper_parameters_are_tuned(case):
    """A maximum of the evidence, away from where published code left them; noise near the residuals of the network."""
    model, graphs = case
    c = curvature(model, graphs)
    mode = {n: p.detach() for n, p in model.named_parameters()}
    posterior, found = c.laplace(mode)
    assert isinstance(posterior, GaussianPosterior)
    assert posterior.linear
    for key in ("noise_energy", "noise_forces", "prior_precision"):
        assert abs(math.log(found[key])) > 0.05
    theta = torch.cat([p.reshape(-1) for p in mode.values()])
    of_energy, of_forces = (torch.cat([part[n].reshape(-1) for n in mode]) for part in (c.energy, c.forces))

    def evidence(noise_energy, noise_forces, prior):
        """By a multivariate Gaussian, as the textbook has it."""
        diagonal = of_energy / noise_energy**2 + of_forces / noise_forces**2 + prior
        total = -0.5 * prior * float(theta.square().sum()) + 0.5 * len(theta) * math.log(prior)
        for sse, n, noise in zip(c.sse, c.n, (noise_energy, noise_forces), strict=True):
            total += -0.5 * sse / noise**2 - 0.5 * n * math.log(2 * math.pi * noise**2)
        return total - 0.5 * float(diagonal.log().sum())

    best = [found[key] for key in ("noise_energy", "noise_forces", "prior_precision")]
    assert evidence(*best) == pytest.approx(found["log_evidence"], rel=1e-9)
    for k in range(3):
        for factor in (0.97, 1.03):
            assert evidence(*(x * (factor if i == k else 1.0) for i, x in enumerate(best))) < evidence(*best)


def test_from_files_to_error_bars(small, no_events, tmp_path):
    settings = {"data": {"energy_unit": "kcal/mol", "validation": 0.2, "calibration": 0.0}}
    point = train(
        small.ETHANOL,
        tmp_path / "p.blip",
        model={"posterior": "point", "sizes": small.SIZES},
        training={"epochs": 2, "batch_size": 4},
        folder=tmp_path / "run",
        **settings,
    )
    made = train(
        small.ETHANOL,
        tmp_path / "a.blip",
        model={"posterior": "laplace", "laplace": {"weights": "all"}},
        training={"epochs": 0},
        start=tmp_path / "p.blip",
        folder=tmp_path / "again",
        **settings,
    )
    loaded = load_model(tmp_path / "a.blip")
    assert (loaded.hash, loaded.posterior.name, loaded.posterior.linear) == (made.hash, "laplace-all", True)
    atoms = small.ethanol(1)[0].copy()
    atoms.calc = BayesianCalculator(loaded, n_draws=8, raw=True)
    assert (atoms.calc.get_property("atom_std", atoms) > 0).all()
    bare = atoms.copy()
    bare.calc = BayesianCalculator(point, raw=True)
    np.testing.assert_allclose(atoms.get_forces(), bare.get_forces(), atol=1e-12)
