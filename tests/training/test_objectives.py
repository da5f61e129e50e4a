"""Objectives and schedules: known values, and the scores of ``stats`` as the second opinion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blipcalc.errors import ConfigurationError
from blipcalc.nn.symmetric import gaussian_terms
from blipcalc.stats import scores
from blipcalc.training.batches import Labelled
from blipcalc.training.config import ObjectiveName, TrainConfig
from blipcalc.training.distributed import Processes
from blipcalc.training.objectives import (
    OBJECTIVES,
    WITH_HEADS,
    covariance_nll,
    crps,
    gaussian_nll,
    likelihood_weight,
    losses,
    mae,
    mse,
    variance_nll,
)
from blipcalc.training.schedules import kl_weight, learning_rate
from blipcalc.training.steps import StepOutput


def residuals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_every_name_has_an_objective():
    assert set(OBJECTIVES) | set(WITH_HEADS) == set(ObjectiveName.__args__)


@pytest.mark.parametrize("shape", [(1, 7), (3, 5), (2, 4, 3)])
def test_mae_and_mse(shape):
    r = residuals(*shape)
    np.testing.assert_allclose(mae(r), np.abs(r.numpy()).mean(), rtol=1e-15)
    np.testing.assert_allclose(mse(r), (r.numpy() ** 2).mean(), rtol=1e-15)
    np.testing.assert_allclose(mae(r), scores.mae(r.numpy()), rtol=1e-15)
    np.testing.assert_allclose(mse(r), scores.rmse(r.numpy()) ** 2, rtol=1e-14)


@pytest.mark.parametrize("n_draws", [2, 3, 8])
def test_crps_is_that_of_the_scores(n_draws):
    samples, reference = residuals(n_draws, 6, 3), residuals(6, 3, seed=1)
    expected = scores.crps_samples(samples.numpy(), reference.numpy())
    np.testing.assert_allclose(crps(samples - reference), expected, rtol=1e-13)


def test_crps_of_two_draws_by_hand():
    # |1| and |3| have the mean 2; the pair is 2 apart, and the fair term is half of that
    np.testing.assert_allclose(crps(torch.tensor([[1.0], [3.0]])), 1.0)
    np.testing.assert_allclose(crps(torch.tensor([[-1.0], [3.0]])), 0.0)


def test_crps_of_equal_draws_is_the_mae():
    r = residuals(1, 50).expand(4, -1)
    np.testing.assert_allclose(crps(r), mae(r), rtol=1e-14)


def test_crps_is_least_for_the_true_spread_and_mae_for_none():
    """Proper: a spread as wide as the error scores best; the error of single draws only wants it gone."""
    truth, noise = residuals(1, 20000), residuals(8, 20000, seed=1)
    widths = (0.0, 0.5, 0.8, 1.0, 1.25, 2.0)
    by_crps = [float(crps(w * noise - truth)) for w in widths]
    by_mae = [float(mae(w * noise - truth)) for w in widths]
    assert widths[int(np.argmin(by_crps))] == 1.0
    assert by_mae == sorted(by_mae)


def test_crps_needs_two_draws():
    with pytest.raises(ConfigurationError, match="train_draws"):
        crps(residuals(1, 5))


def test_gaussian_nll_is_the_likelihood_at_its_best_variance():
    r = residuals(2, 30)
    variance = float(mse(r))
    full = 0.5 * np.log(variance) + 0.5 * (r.numpy() ** 2).mean() / variance
    np.testing.assert_allclose(gaussian_nll(r), full - 0.5, rtol=1e-12)
    for other in (0.5 * variance, 2.0 * variance):
        assert 0.5 * np.log(other) + 0.5 * (r.numpy() ** 2).mean() / other > full


def test_the_gradient_of_gaussian_nll_points_along_the_residual_over_their_square():
    r = residuals(1, 12).requires_grad_()
    gaussian_nll(r).backward()
    torch.testing.assert_close(r.grad, (r / r.square().sum()).detach(), rtol=1e-12, atol=0)
    assert (r.grad * r > 0).all()


def test_gaussian_nll_of_a_perfect_prediction_is_finite():
    r = torch.zeros(1, 5, requires_grad=True)
    gaussian_nll(r).backward()
    assert torch.isfinite(gaussian_nll(r))
    assert torch.isfinite(r.grad).all()


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_objectives_are_finite_in_float32_and_fall_with_the_residual(name):
    r = residuals(4, 100, dtype=torch.float32)
    values = [float(OBJECTIVES[name](s * r)) for s in (0.01, 0.1, 1.0, 10.0)]
    assert all(math.isfinite(v) for v in values)
    if name != "crps":  # the fair score of pure spread is zero on average
        assert values == sorted(values)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_average_may_be_that_of_all_processes(name):
    """Parts of unequal size: with the average over all of them, each process has the objective of the whole."""
    objective, whole = OBJECTIVES[name], residuals(3, 12)
    parts = whole.split([3, 9], dim=1)
    collected: list[torch.Tensor] = []

    def collect(values: torch.Tensor) -> torch.Tensor:
        assert values.ndim > 0  # nothing is averaged beforehand
        collected.append(values.reshape(-1))
        return values.mean()

    alone = [objective(part, collect) for part in parts]
    assert len(collected) == 2  # one average per call
    shared = [objective(part, lambda values: torch.cat(collected).mean()) for part in parts]
    for value in (*shared, objective(whole), objective(whole, Processes(0, 1, torch.device("cpu")).mean)):
        torch.testing.assert_close(value, objective(whole, torch.mean), rtol=1e-13, atol=0)
    assert abs(float((alone[0] + alone[1]) / 2 - objective(whole))) > 1e-3  # a mean of means is another number


# -- schedules ----------------------------------------------------------------------------------------------------------

RATE = {"peak": 1.0, "final": 0.1, "warmup": 100}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.01),
        (49, 0.5),
        (99, 1.0),
        (100, 1.0),
        (550, 0.55),
        (325, 0.55 + 0.45 * math.sqrt(0.5)),
        (1000, 0.1),
        (2000, 0.1),
    ],
)
def test_learning_rate(step, expected):
    np.testing.assert_allclose(learning_rate(step, 1000, **RATE), expected, rtol=1e-12)


def test_the_warmup_takes_at_most_a_tenth_of_a_short_run():
    assert learning_rate(9, 100, **RATE) == 1.0
    assert learning_rate(0, 3, **RATE) == 1.0
    assert learning_rate(0, 1, **RATE) == 1.0


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(total=st.integers(1, 3000), warmup=st.integers(0, 4000), peak=st.floats(1e-6, 1.0))
def test_learning_rate_rises_then_falls_between_its_bounds(total, warmup, peak):
    values = np.array([learning_rate(s, total, peak=peak, final=peak / 100, warmup=warmup) for s in range(total + 1)])
    assert values.min() > 0
    assert values.max() <= peak * (1 + 1e-12)
    top = int(values.argmax())
    assert (np.diff(values[: top + 1]) >= -1e-15).all()
    assert (np.diff(values[top:]) <= 1e-15).all()
    np.testing.assert_allclose(values[-1], peak / 100, rtol=1e-9) if total > 1 else None


@pytest.mark.parametrize(("step", "expected"), [(0, 0.001), (49, 0.05), (99, 0.1), (100, 0.1), (5000, 0.1)])
def test_kl_weight(step, expected):
    np.testing.assert_allclose(kl_weight(step, 1000, weight=0.1, warmup=0.1), expected, rtol=1e-12)


def test_kl_weight_without_warmup():
    assert kl_weight(0, 1000, weight=0.3, warmup=0.0) == 0.3
    assert kl_weight(0, 5, weight=0.3, warmup=0.1) == 0.3


# -- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": 5},
        {"epochs": -1},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"ema_decay": 1.0},
        {"kl_warmup": 1.5},
        {"objective": "huber"},
        {"dtype": "float16"},
        {"seed": -1},
        {"energy_weight": -0.1},
    ],
    ids=str,
)
def test_unknown_and_senseless_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().epochs = 3


def known_noise(n=40_000, seed=0):
    """Errors of a known covariance."""
    factor = torch.tensor([[0.3, 0.0, 0.0], [0.1, 0.2, 0.0], [-0.2, 0.05, 0.1]], dtype=torch.float64)
    return residuals(n, 3, seed=seed) @ factor.T, factor @ factor.T


def fitted_covariance(loss, start=1.0):
    """The covariance L Lᵀ that a loss is least for."""
    raw = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [raw], max_iter=1000, line_search_fn="strong_wolfe", tolerance_grad=1e-13, tolerance_change=0.0
    )

    def covariance():
        factor = torch.zeros(3, 3, dtype=torch.float64)
        lower = torch.tril_indices(3, 3, offset=-1)
        factor = factor.index_put((lower[0], lower[1]), raw[3:]) + torch.diag(start * raw[:3].exp())
        return factor @ factor.T

    def closure():
        optimizer.zero_grad()
        value = loss(covariance())
        value.backward()
        return value

    optimizer.step(closure)
    return covariance().detach()


def test_joint_likelihood_recovers_the_covariance_of_the_errors():
    errors, true = known_noise()
    found = fitted_covariance(lambda c: covariance_nll(errors, c.expand(len(errors), 3, 3)))
    sample = errors.T @ errors / len(errors)
    torch.testing.assert_close(found, sample, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found, true, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("weight", [50.0, 100.0, 1000.0])
def test_weight_of_the_published_loss_inflates_the_variance_and_division_restores_it(weight):
    """λ before the Mahalanobis term alone; σ grows by 7.07, 10 and 31.6.  Weights of ours stand before whole terms."""
    errors, _ = known_noise(2000)

    def published(covariance):
        square, logdet = gaussian_terms(errors, covariance.expand(len(errors), 3, 3))
        return (weight * square + logdet).mean()

    sample = errors.T @ errors / len(errors)
    found = fitted_covariance(published, start=weight**0.5)
    torch.testing.assert_close(found, weight * sample, rtol=1e-5, atol=1e-8)
    assert float((found / sample)[0, 0]) ** 0.5 == pytest.approx({50: 7.07, 100: 10.0, 1000: 31.6}[weight], rel=1e-3)
    torch.testing.assert_close(found / weight, sample, rtol=1e-5, atol=1e-8)
    ours = fitted_covariance(lambda c: weight * covariance_nll(errors, c.expand(len(errors), 3, 3)))
    torch.testing.assert_close(ours, sample, rtol=1e-5, atol=1e-8)


def test_gradient_of_the_mean_does_not_depend_on_that_weight_once_variances_have_adapted():
    errors, _ = known_noise(500)
    sample = errors.T @ errors / len(errors)
    gradients = []
    for weight in (1.0, 100.0):
        mean = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        square, _ = gaussian_terms(errors - mean, (weight * sample).expand(len(errors), 3, 3))
        gradients.append(torch.autograd.grad((weight * square).mean(), mean)[0])
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_likelihood_of_variances_is_that_of_the_scores():
    r, v = residuals(300), residuals(300, seed=1).exp()
    expected = scores.nll(r.numpy(), v.numpy()) - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(variance_nll(r, v), expected, rtol=1e-12)
    # isotropic covariances: per component, the same
    r, v = residuals(50, 3), residuals(50, seed=1).exp()
    both = covariance_nll(r, v[:, None, None] * torch.eye(3)), variance_nll(r, v[:, None].expand(-1, 3))
    torch.testing.assert_close(*both)


def test_beta_one_gives_means_the_gradient_of_the_mse():
    v = residuals(40, seed=1).exp()
    for beta, power in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
        r = residuals(40).requires_grad_()
        (gradient,) = torch.autograd.grad(variance_nll(r, v, beta=beta), r)
        torch.testing.assert_close(gradient, r.detach() / v * v**power / 40)
        vectors = residuals(40, 3).requires_grad_()
        covariances = v[:, None, None] * torch.eye(3, dtype=v.dtype)
        (gradient,) = torch.autograd.grad(covariance_nll(vectors, covariances, beta=beta), vectors)
        torch.testing.assert_close(gradient, vectors.detach() / v[:, None] * v[:, None] ** power / 120)


def test_losses_of_the_two_likelihoods():
    """nll_e leaves forces to their mse; nll_jef weighs both by their variances; labels and variances in one unit."""
    scale, n = 0.5, 4
    step = StepOutput(
        residuals(1, 2),
        residuals(1, n, 3, seed=1),
        torch.zeros(0, 2),
        torch.full((1, 2), 0.3, dtype=torch.float64),
        0.2 * torch.eye(3, dtype=torch.float64).expand(1, n, 3, 3),
    )
    batch = Labelled(None, residuals(2, seed=2), residuals(n, 3, seed=3))
    energy, forces = (step.energy - batch.energy) / scale, (step.forces - batch.forces) / scale
    of_energy, of_forces = losses("nll_e", step, batch, scale)
    torch.testing.assert_close(of_energy, 0.5 * (energy.square() / 1.2 + math.log(1.2)).mean())
    torch.testing.assert_close(of_forces, forces.square().mean())
    joint = losses("nll_jef", step, batch, scale)
    torch.testing.assert_close(joint[0], of_energy)
    torch.testing.assert_close(joint[1], 0.5 * (forces.square() / 0.8 + math.log(0.8)).mean())
    torch.testing.assert_close(losses("mae", step, batch, scale)[1], forces.abs().mean())


def test_blended_updates_are_a_hundredth_of_the_learning_rate():
    """What published inputs call "EMA decay 0.99" keeps no shadow: weights become 0.99 old + 0.01 new after every step."""

    def path(rate, blend):
        w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        optimizer = torch.optim.Adam([w], lr=rate, amsgrad=True)
        found = []
        for t in range(60):
            optimizer.zero_grad()
            ((w - 0.3) ** 2 * torch.tensor([1.0, 3.0, 10.0]) * (1 + math.sin(t))).sum().backward()
            old = w.detach().clone()
            optimizer.step()
            with torch.no_grad():
                w.lerp_(old, 1.0 - blend)
            found.append(w.detach().clone())
        return torch.stack(found)

    torch.testing.assert_close(path(0.01, 0.01), path(1e-4, 1.0), rtol=1e-10, atol=1e-12)
    assert float((path(0.01, 1.0) - path(1e-4, 1.0)).abs().max()) > 0.1


def test_the_weight_makes_a_loss_the_likelihood_of_a_component():
    """Differences between data sets are those of log densities; the factor alone is not in the loss."""
    width, n = 0.3, 400
    first, second = residuals(n), 0.5 * residuals(n, seed=1)
    laplace = torch.distributions.Laplace(torch.zeros(1, dtype=torch.float64), width)
    normal = torch.distributions.Normal(torch.zeros(1, dtype=torch.float64), width)
    for name, density in (("mae", laplace), ("mse", normal)):
        losses_of = [n * likelihood_weight(name, width) * OBJECTIVES[name](r) for r in (first, second)]
        likelihoods = [-density.log_prob(r).sum() for r in (first, second)]
        torch.testing.assert_close(losses_of[0] - losses_of[1], likelihoods[0] - likelihoods[1])
    profiled = [n * likelihood_weight("gaussian_nll", width) * gaussian_nll(r) for r in (first, second)]
    exact = [-torch.distributions.Normal(0.0, r.square().mean().sqrt()).log_prob(r).sum() for r in (first, second)]
    torch.testing.assert_close(profiled[0] - profiled[1], exact[0] - exact[1], rtol=1e-9, atol=0.0)
    # with heads the loss is 2 u² times the likelihood, u the residuals it starts from
    for name in WITH_HEADS:
        assert likelihood_weight(name, width) == pytest.approx(1 / (2 * width**2))
    assert likelihood_weight("crps", width) == likelihood_weight("mae", width)
