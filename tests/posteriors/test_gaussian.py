"""Gaussians over all weights: the sampler, SWAG's moments, and IVON where the best diagonal Gaussian is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from blipcalc.errors import DrawsError
from blipcalc.posteriors.gaussian import GaussianPosterior
from blipcalc.posteriors.ivon import IvonConfig, IvonOptimizer
from blipcalc.posteriors.laplace import LaplaceAll, LaplaceKron
from blipcalc.posteriors.swag import Swag, SwagConfig, SwagMoments

K = 20_000


def flattened(draws, names):
    return torch.cat([draws.overrides[name].flatten(1) for name in names], dim=1).numpy()


@pytest.mark.chance(14)
def test_draws_have_the_covariance_that_was_asked_for(chance):
    generator = torch.Generator().manual_seed(0)
    mean = {"a": torch.randn(2, generator=generator), "b": torch.randn(1, 2, generator=generator)}
    std = {name: torch.rand(value.shape, generator=generator) for name, value in mean.items()}
    deviations = {name: torch.randn(3, *value.shape, generator=generator) for name, value in mean.items()}
    posterior = GaussianPosterior("swag", mean, std, deviations)
    k = chance.times(K)
    x = flattened(posterior.draw(k, generator=torch.Generator().manual_seed(chance.seed())), mean)
    d = torch.cat([value.flatten(1) for value in deviations.values()], dim=1).numpy()
    s = torch.cat([value.flatten() for value in std.values()]).numpy()
    exact = np.diag(s**2) + d.T @ d
    size = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
    np.testing.assert_allclose(np.cov(x.T) / size, exact / size, atol=chance.sigmas * math.sqrt(2 / k))
    middle = torch.cat([value.flatten() for value in mean.values()]).numpy()
    np.testing.assert_allclose((x.mean(0) - middle) / np.sqrt(exact.diagonal()), 0.0, atol=chance.sigmas / math.sqrt(k))


def test_draw_k_does_not_know_how_many_there_are():
    mean = {"a": torch.zeros(3)}
    posterior = GaussianPosterior("ivon", mean, {"a": torch.ones(3)})
    a, b = (posterior.draw(k, generator=torch.Generator().manual_seed(2)).overrides["a"] for k in (2, 6))
    assert torch.equal(a, b[:2])
    assert posterior.rank == 0
    with pytest.raises(DrawsError):
        posterior.draw(0, generator=torch.Generator())


def test_parts_that_do_not_fit_are_refused():
    network = torch.nn.Linear(2, 3)
    good = GaussianPosterior(
        "swag",
        {n: p.detach() for n, p in network.named_parameters()},
        {n: torch.ones_like(p) for n, p in network.named_parameters()},
        {n: torch.ones(4, *p.shape) for n, p in network.named_parameters()},
    )
    again = Swag().restore(network, {}, good.tensors())
    assert again.rank == 4
    for name, value in (
        ("std/weight", torch.ones(3)),
        ("std/weight", None),
        ("deviations/bias", torch.ones(5, 3)),
        ("deviations/bias", None),
        ("std/other", torch.ones(1)),
        ("mean/weight", torch.ones(3, 2)),
    ):
        tensors = good.tensors() | {name: value}
        with pytest.raises(DrawsError):
            Swag().restore(network, {}, {k: v for k, v in tensors.items() if v is not None})


def test_axes_of_their_own_belong_to_those_that_have_them():
    network = torch.nn.Linear(2, 3)
    shapes = {"weight": (3, 2), "bias": (1, 3)}
    parts = ({n: torch.eye(shapes[n][k])[None] for n in shapes} for k in (0, 1))
    std = {n: torch.ones_like(p) for n, p in network.named_parameters()}
    mean = {n: p.detach() for n, p in network.named_parameters()}
    good = GaussianPosterior("laplace-kron", mean, std, {}, True, *parts).tensors()
    assert LaplaceKron().restore(network, {}, good).left.keys() == shapes.keys()
    with pytest.raises(DrawsError):
        LaplaceAll().restore(network, {}, good)
    for name, value in (
        ("left/weight", None),
        ("right/weight", torch.eye(3)[None]),
        ("right/bias", torch.eye(3)),
        ("left/bias", None),
    ):
        tensors = good | {name: value}
        with pytest.raises(DrawsError):
            LaplaceKron().restore(network, {}, {k: v for k, v in tensors.items() if v is not None})


def snapshots(n, seed=0):
    """Independent samples of a known Gaussian far from zero, where mean θ² - θ̄² would have no digits left in float32."""
    rng = np.random.default_rng(seed)
    factor = np.array([[0.3, 0.0, 0.0], [0.2, 0.1, 0.0], [-0.1, 0.05, 0.2]])
    return 1000.0 + rng.normal(size=(n, 3)) @ factor.T, factor @ factor.T


@pytest.mark.chance(6)
def test_swag_of_posterior_samples_is_that_posterior(chance):
    """Both parts halved: of snapshots that are samples of N(m, C) it makes N(m, ½ diag C + ½ C), the right variances."""
    n = chance.times(2000)
    points, c = snapshots(n, chance.seed())
    moments = SwagMoments(SwagConfig(rank=n // 2))
    for x in points:
        moments.add({"w": torch.tensor(x)})
    posterior = moments.gaussian()
    draws = posterior.draw(2 * n, generator=torch.Generator().manual_seed(chance.seed())).overrides["w"].numpy()
    exact = 0.5 * np.diag(c.diagonal()) + 0.5 * c
    size = np.sqrt(np.outer(c.diagonal(), c.diagonal()))
    np.testing.assert_allclose(np.cov(draws.T) / size, exact / size, atol=2 * chance.sigmas * math.sqrt(2 / n))
    np.testing.assert_allclose(posterior.mean["w"], points.mean(0), rtol=1e-12)
    np.testing.assert_allclose(2 * posterior.std["w"] ** 2, points.var(0), rtol=1e-10)


def test_swag_keeps_the_last_deviations_from_the_mean_of_their_time():
    points, _ = snapshots(7)
    moments = SwagMoments(SwagConfig(rank=3))
    for x in points:
        moments.add({"w": torch.tensor(x)})
    posterior = moments.gaussian()
    expected = [points[t] - points[: t + 1].mean(0) for t in (4, 5, 6)]
    np.testing.assert_allclose(posterior.deviations["w"], np.array(expected) / math.sqrt(2 * 2), atol=1e-9)
    again = SwagMoments(SwagConfig(rank=3))
    again.load(moments.state())
    for m in (moments, again):
        m.add({"w": torch.zeros(3)})
    for part in ("mean", "std", "deviations"):
        assert torch.equal(getattr(moments.gaussian(), part)["w"], getattr(again.gaussian(), part)["w"])


def test_swag_needs_snapshots():
    moments = SwagMoments(SwagConfig())
    for _ in range(2):
        moments.add({"w": torch.zeros(2)})
    with pytest.raises(DrawsError, match="2 snapshots"):
        moments.gaussian()


def trained_ivon(curvature, target, config, ess, steps, rate, gradient_noise=0.0, seed=0):
    """IVON on ½ Σ a (θ - b)²."""
    generator = torch.Generator().manual_seed(seed)
    named = {"w": torch.nn.Parameter(torch.zeros_like(target))}
    optimizer = IvonOptimizer([{"params": list(named.values())}], config, ess)
    for t in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - t / steps)
        theta = optimizer.sample(named, generator)["w"]
        loss = 0.5 * (curvature * (theta - target).square()).sum()
        loss = loss + gradient_noise * (torch.randn(theta.shape, generator=generator, dtype=theta.dtype) * theta).sum()
        loss.backward()
        named["w"].grad = theta.grad
        optimizer.step()
    return optimizer.gaussian(named)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.chance(8)
def test_ivon_finds_the_exact_posterior_of_a_linear_gaussian_model(weight_decay, chance):
    """With a quadratic loss and a Gaussian prior of precision λδ the posterior is N(a b / (a + δ), 1 / (λ (a + δ)))."""
    curvature = torch.tensor([0.5, 1.0, 2.0, 5.0], dtype=torch.float64)
    target = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    config = IvonConfig(hess_init=1.0, beta2=0.9998, weight_decay=weight_decay, clip_radius=10.0)
    ess, steps = 200.0, chance.times(20_000)
    posterior = trained_ivon(curvature, target, config, ess, steps, rate=0.1, seed=chance.seed())
    exact_mean, exact_var = curvature * target / (curvature + weight_decay), 1 / (ess * (curvature + weight_decay))
    # a weight that is pulled away from its minimum has a curvature with a scatter of a tenth
    np.testing.assert_allclose(posterior.std["w"] ** 2, exact_var, rtol=0.4)
    np.testing.assert_allclose(posterior.mean["w"], exact_mean, atol=0.4 * float(exact_var.sqrt().max()))
    # the control: without its curvature it would keep the variance that it started with
    start = 1 / (ess * (1.0 + weight_decay))
    assert np.abs(posterior.std["w"].numpy() ** 2 / start - 1).max() > 0.5


def test_ivon_keeps_its_hessian_positive():
    config = IvonConfig(hess_init=0.1, beta2=0.9, weight_decay=1e-3, clip_radius=1.0)
    curvature = torch.full((50,), 1e-3, dtype=torch.float64)
    posterior = trained_ivon(curvature, torch.zeros_like(curvature), config, 10.0, 500, 0.01, gradient_noise=1.0)
    assert torch.isfinite(posterior.std["w"]).all()


def test_ivon_leaves_what_has_no_gradient_alone():
    used, idle = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    optimizer = IvonOptimizer([{"params": [used, idle]}], IvonConfig(), 10.0)
    samples = optimizer.sample({"used": used, "idle": idle}, torch.Generator().manual_seed(0))
    samples["used"].square().sum().backward()
    used.grad = samples["used"].grad
    optimizer.step()
    assert torch.equal(idle, torch.ones(3))
    assert not torch.equal(used, torch.ones(2))
