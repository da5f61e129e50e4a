"""Noise of a variational layer: its prior, its variance, its silence, and how it adds up over copies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import nn

from blipcalc.core.evaluate import evaluate
from blipcalc.core.graph import Graph
from blipcalc.posteriors.variational import VARIANCE_FLOOR, VariationalLinear, kl_divergence


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(n_in=6, n_out=4, seed=0):
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64))
    return layer


def with_slots(layer, h, **slots):
    return torch.func.functional_call(layer, slots, (h,))


def monte_carlo_kl(theta, alpha, alpha_prior, n, seed):
    """Mean and standard error of ln q - ln p over samples of q."""
    scale = math.sqrt(alpha) * abs(theta)
    q = torch.distributions.Normal(torch.tensor(theta, dtype=torch.float64), scale)
    p = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), math.sqrt(alpha_prior) * abs(theta))
    omega = theta + scale * torch.randn(n, generator=generator(seed), dtype=torch.float64)
    difference = q.log_prob(omega) - p.log_prob(omega)
    return difference.mean().item(), difference.std().item() / math.sqrt(n)


TABLE = [(0.7, 0.3, 0.5, 0.7520), (-2.1, 1.7, 0.2, 3.942), (0.05, 0.01, 0.01, 49.50)]


@pytest.mark.chance(2)
@pytest.mark.parametrize(("theta", "alpha", "p", "expected"), TABLE)
def test_kl_is_the_published_value_and_the_monte_carlo_mean(theta, alpha, p, expected, chance):
    alpha_prior = p / (1 - p)
    closed = kl_divergence(torch.tensor(alpha, dtype=torch.float64), alpha_prior).item()
    assert closed == pytest.approx(expected, rel=2e-4)
    mean, error = monte_carlo_kl(theta, alpha, alpha_prior, chance.times(200_000), chance.seed())
    assert abs(mean - closed) < chance.sigmas * error
    # control: the divergence from a prior around θ instead of zero has the same derivative, but is another number
    around_theta = closed - 0.5 / alpha_prior
    assert abs(mean - around_theta) > 10 * chance.sigmas * error


@pytest.mark.parametrize("alpha_prior", [1.0, 0.25, 0.0101, 0.02])
def test_kl_has_its_floor_at_the_prior_and_a_log_square_valley(alpha_prior):
    alpha = torch.tensor(alpha_prior, dtype=torch.float64, requires_grad=True)
    floor = kl_divergence(alpha, alpha_prior)
    assert floor.item() == pytest.approx(0.5 / alpha_prior, rel=1e-14)
    (slope,) = torch.autograd.grad(floor, alpha)
    assert abs(slope.item()) * alpha_prior < 1e-12
    for log_ratio in (-0.1, -0.01, 0.01, 0.1):
        excess = kl_divergence(torch.tensor(alpha_prior * math.exp(log_ratio)).double(), alpha_prior) - floor
        exact = 0.5 * (math.exp(log_ratio) - 1 - log_ratio)
        assert excess.item() == pytest.approx(exact, rel=1e-6, abs=1e-6 * floor.item())
        assert exact == pytest.approx(0.25 * log_ratio**2, rel=0.4 * abs(log_ratio))


def test_kl_does_not_regularise_the_weights(make_blip, molecule):
    model = make_blip()
    model(Graph.from_atoms(molecule, model.cutoff).tensors(torch.float64)).penalty[:, 0].sum().backward()
    pulled = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert pulled == {"inference"}


@pytest.mark.chance(26)
def test_marginal_variance_is_the_same_for_both_kinds_of_noise(chance):
    n = chance.times(40_000)
    layer = linear()
    h = torch.randn((3, 6), generator=generator(2), dtype=torch.float64)
    h[1] = h[0]
    alpha = torch.tensor([0.04, 0.04, 0.3], dtype=torch.float64)
    variational = VariationalLinear(layer)
    weight_noise = torch.randn((n, 4, 6), generator=generator(chance.seed()), dtype=torch.float64)
    row_noise = torch.randn((n, 3, 4), generator=generator(chance.seed(1)), dtype=torch.float64)
    frozen = torch.func.vmap(lambda e: with_slots(variational, h, alpha=alpha, weight_noise=e))(weight_noise)
    local = torch.func.vmap(lambda e: with_slots(variational, h, alpha=alpha, row_noise=e))(row_noise)
    expected = alpha[:, None] * (h**2 @ (layer.weight**2).T)
    error = chance.sigmas * math.sqrt(2 / n)
    for z in (frozen, local):
        assert (z.var(0) / expected - 1).abs().max() < error
        assert ((z.mean(0) - layer(h)).abs() < chance.sigmas * (expected / n).sqrt()).all()
    # control: the test would see a variance that is twice the bound off
    assert (frozen.var(0) / (1 + 2 * error) / expected - 1).abs().max() > error

    def correlation(z):
        return np.corrcoef(z[:, 0, 0].detach(), z[:, 1, 0].detach())[0, 1]

    assert correlation(frozen) == pytest.approx(1.0, abs=1e-12)
    assert abs(correlation(local)) < chance.sigmas / math.sqrt(n)


@pytest.mark.chance(5)
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_variance_of_rescaled_dropout_is_p_over_one_minus_p(p, chance):
    n = chance.times(40_000)
    layer = linear(seed=5)
    variational = VariationalLinear(layer)
    h = torch.randn((1, 6), generator=generator(6), dtype=torch.float64)
    kept = torch.bernoulli(torch.full((n, 4, 6), 1 - p, dtype=torch.float64), generator=generator(chance.seed())) / (
        1 - p
    )
    dropped = torch.func.vmap(lambda k: nn.functional.linear(h, layer.weight * k, layer.bias))(kept)
    alpha = torch.tensor([p / (1 - p)], dtype=torch.float64)
    noise = torch.randn((n, 4, 6), generator=generator(chance.seed(1)), dtype=torch.float64)
    gaussian = torch.func.vmap(lambda e: with_slots(variational, h, alpha=alpha, weight_noise=e))(noise)
    assert kept.var().item() == pytest.approx(p / (1 - p), rel=0.02)
    # kurtosis of a Bernoulli sum is below that of a Gaussian, so the Gaussian error bar is wide enough
    assert (gaussian.var(0) / dropped.var(0) - 1).abs().max() < chance.sigmas * math.sqrt(4 / n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 6), (5, 3, 6), (0, 6)])
def test_a_layer_with_empty_slots_is_the_linear_layer_bit_for_bit(dtype, shape):
    layer = linear().to(dtype)
    variational = VariationalLinear(layer)
    h = torch.randn(shape, generator=generator(9), dtype=dtype)
    assert torch.equal(variational(h), layer(h))
    alpha = torch.full(shape[:1], 0.1, dtype=dtype)
    assert torch.equal(with_slots(variational, h, alpha=alpha), layer(h))
    noise = torch.randn((4, 6), generator=generator(10), dtype=dtype)
    assert torch.equal(with_slots(variational, h, alpha=0 * alpha, weight_noise=noise), layer(h))
    noisy = with_slots(variational, h, alpha=alpha, weight_noise=noise)
    assert shape[0] == 0 or not torch.equal(noisy, layer(h))
    assert set(variational.state_dict()) == {"weight", "bias"}
    assert variational.weight is layer.weight


def test_local_noise_without_alpha_is_the_square_root_of_the_floor():
    layer = linear()
    h = torch.randn((5, 6), generator=generator(9), dtype=torch.float64)
    noise = torch.randn((5, 4), generator=generator(10), dtype=torch.float64)
    shifted = with_slots(VariationalLinear(layer), h, alpha=torch.zeros(5).double(), row_noise=noise) - layer(h)
    torch.testing.assert_close(shifted, math.sqrt(VARIANCE_FLOOR) * noise, rtol=1e-9, atol=1e-15)


def test_frozen_noise_passes_its_gradient_to_the_weights():
    """θ multiplies ε as well: ∂z/∂θ = h (1 + √α ε)."""
    layer = VariationalLinear(linear())
    h = torch.randn((1, 6), generator=generator(11), dtype=torch.float64)
    noise = torch.randn((4, 6), generator=generator(12), dtype=torch.float64)
    alpha = torch.tensor([0.09], dtype=torch.float64)
    with_slots(layer, h, alpha=alpha, weight_noise=noise).sum().backward()
    torch.testing.assert_close(layer.weight.grad, h * (1 + 0.3 * noise), rtol=1e-13, atol=1e-13)


def copies(atoms, n, cutoff):
    """n copies of a molecule, out of each other's reach, as one structure."""
    together = Atoms()
    for i in range(n):
        moved = atoms.copy()
        moved.positions += [4.0 * cutoff * i, 0.0, 0.0]
        together += moved
    return together


def energies(model, draws, atoms):
    return evaluate(model, draws, Graph.from_atoms(atoms, model.cutoff), forces=False).energy[:, 0].numpy()


def test_frozen_errors_of_copies_add_coherently(make_blip, draw, molecule):
    model = make_blip()
    draws = draw(model, 16)
    single = energies(model, draws, molecule)
    assert single.std() > 1e-3
    for n in (4, 16):
        together = energies(model, draws, copies(molecule, n, model.cutoff))
        np.testing.assert_allclose(together, n * single, rtol=1e-12)


def test_local_errors_of_copies_add_as_a_random_walk(make_blip, draw, molecule):
    model = make_blip(mode="local")
    n_draws = 200
    graph = Graph.from_atoms(copies(molecule, 16, model.cutoff), model.cutoff)
    per_atom = evaluate(model, draw(model, n_draws), graph, forces=False).energies
    single = per_atom.reshape(n_draws, 16, len(molecule)).sum(-1)
    std = {n: single.reshape(n_draws, 16 // n, n).sum(-1).var(0).mean().sqrt().item() for n in (1, 4, 16)}
    error = 5 * math.sqrt(0.5 / n_draws)
    for n in (4, 16):
        assert std[n] / std[1] == pytest.approx(math.sqrt(n), rel=error)
    # control: this many draws tell √N from N
    assert std[16] / std[1] < 0.5 * 16
