"""The Kronecker product against linear models whose posterior is one, exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from blipcalc.posteriors.gauss_newton import Curvature, Diagonal
from blipcalc.posteriors.kronecker import Kronecker
from blipcalc.posteriors.laplace import laplace_over_all, log_evidence

K = 20_000
OUTPUTS, FEATURES = 10, 4
NOISE, PRIOR = (0.5, 2.0), 4.0  # of energies and of forces, and of the weights


class Toy:
    """y = M W x + noise, all outputs from the same x, whose components go together: G = Mᵀ M ⊗ Σ x xᵀ / σ².

    Half of its data play energies, the others forces, each with noise of its own.
    """

    def __init__(self, seed=0, n=300):
        rng = np.random.default_rng(seed)
        self.mix = torch.tensor(np.eye(OUTPUTS) + 0.3 * rng.normal(size=(OUTPUTS, OUTPUTS)))
        common = rng.normal(size=(2, n, 1))
        self.x = torch.tensor(common + 0.3 * rng.normal(size=(2, n, FEATURES)))
        true = torch.tensor(rng.normal(size=(OUTPUTS, FEATURES)) / math.sqrt(PRIOR))
        noise = torch.tensor(rng.normal(size=(2, n, OUTPUTS)) * np.array(NOISE)[:, None, None])
        self.y = self.x @ (self.mix @ true).T + noise

    def jacobian(self, x):
        """(S · outputs, outputs, features)."""
        return torch.einsum("oi,sj->soij", self.mix, x).flatten(0, 1)

    def curvature(self, structure, w):
        sums = [{"w": structure.sums(self.jacobian(x))} for x in self.x]
        sse = (self.y - self.x @ (self.mix @ w).T).square().sum(dim=(1, 2))
        return Curvature(structure, *sums, tuple(sse.tolist()), (self.y[0].numel(), self.y[1].numel()))

    def exact(self, found):
        """Mean (outputs, features) and covariance (P, P) of the weights by the textbook."""
        information, linear = found["prior_precision"] * torch.eye(OUTPUTS * FEATURES, dtype=torch.float64), 0.0
        for x, y, key in zip(self.x, self.y, ("noise_energy", "noise_forces"), strict=True):
            rows = self.jacobian(x).flatten(1) / found[key]
            information = information + rows.T @ rows
            linear = linear + rows.T @ (y.flatten() / found[key])
        covariance = information.inverse()
        return (covariance @ linear).view(OUTPUTS, FEATURES), covariance

    def fit(self, structure):
        """The posterior, where its mean and its hyper-parameters agree."""
        w = torch.zeros(OUTPUTS, FEATURES, dtype=torch.float64) + 0.1
        for _ in range(6):
            posterior, found = laplace_over_all("toy", self.curvature(structure, w), {"w": w})
            w, covariance = self.exact(found)
        return posterior, found, w, covariance


@pytest.fixture(scope="module")
def toy():
    return Toy()


@pytest.fixture(scope="module")
def fitted(toy):
    return toy.fit(Kronecker())


@pytest.mark.chance(4)
def test_draws_are_those_of_the_exact_posterior(fitted, chance):
    posterior, _, mean, covariance = fitted
    k = chance.times(K)
    draws = posterior.draw(k, generator=torch.Generator().manual_seed(chance.seed())).overrides["w"].flatten(1)
    std = covariance.diagonal().sqrt()
    np.testing.assert_allclose((draws.mean(dim=0) - mean.flatten()) / std, 0.0, atol=chance.sigmas / math.sqrt(k))
    size = torch.outer(std, std)
    np.testing.assert_allclose(draws.T.cov() / size, covariance / size, atol=chance.sigmas * math.sqrt(2 / k))


def test_hyper_parameters_are_those_of_the_data(fitted):
    found = fitted[1]
    for key, noise in zip(("noise_energy", "noise_forces"), NOISE, strict=True):
        assert found[key] == pytest.approx(noise, rel=4 / math.sqrt(2 * 300 * OUTPUTS))
    assert found["prior_precision"] == pytest.approx(PRIOR, rel=4 * math.sqrt(2 / (OUTPUTS * FEATURES)))


def test_the_evidence_is_that_of_the_labels(toy, fitted):
    """ln N(y; 0, σ² + J Jᵀ / τ), with no expansion around anything, at other hyper-parameters too; the highest where we are."""
    _, found, _, _ = fitted
    keys = ("noise_energy", "noise_forces", "prior_precision")
    rows, y = torch.cat([toy.jacobian(x[:20]).flatten(1) for x in toy.x]), toy.y[:, :20].reshape(-1)
    small = Toy()
    small.x, small.y = toy.x[:, :20], toy.y[:, :20]
    for factors in ((1.0, 1.0, 1.0), (2.0, 0.5, 3.0)):
        hyper = dict(zip(keys, (found[k] * f for k, f in zip(keys, factors, strict=True)), strict=True))
        w, _ = small.exact(hyper)
        values = [torch.tensor(hyper[k], dtype=torch.float64) for k in keys]
        ours = log_evidence(small.curvature(Kronecker(), w), {"w": w}, *values)
        noise = torch.cat([s.square().expand(len(y) // 2) for s in values[:2]])
        labels = torch.distributions.MultivariateNormal(torch.zeros_like(y), noise.diag() + rows @ rows.T / values[2])
        assert float(ours) == pytest.approx(float(labels.log_prob(y)), rel=1e-10)


def test_a_diagonal_is_wrong_where_features_go_together(toy, fitted):
    """Variance of predictions at an x of the data's kind, and at one that none of them is like."""
    posterior, _, mode, covariance = fitted
    diagonal, _ = laplace_over_all("toy", toy.curvature(Diagonal(), mode), {"w": mode})
    x = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    rows = toy.jacobian(x).flatten(1)
    exact = (rows @ covariance * rows).sum(dim=1)

    def variance(p):
        draws = p.draw(K, generator=torch.Generator().manual_seed(1)).overrides["w"].flatten(1)
        return (draws @ rows.T).var(dim=0)

    np.testing.assert_allclose(variance(posterior), exact, rtol=5 * math.sqrt(2 / K))
    ratio = (variance(diagonal) / exact).view(2, OUTPUTS)
    assert (ratio[1] < 0.5).all()  # overconfident where it matters
    assert ratio[0].min() > 1.5


def test_a_stack_is_its_matrices_and_more_axes_are_a_stack():
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(7, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    structure = Kronecker()
    whole = structure.eigen(structure.sums(jacobian))
    assert whole.values.shape == (6, 4, 5)
    for k, single in enumerate(jacobian.flatten(1, 2).unbind(dim=1)):
        one = structure.eigen(structure.sums(single))
        torch.testing.assert_close(whole.values[k], one.values[0])
    assert [tuple(s.shape) for s in structure.sums(torch.zeros(7))] == [(1, 1, 1), (1, 1, 1)]
    assert [tuple(s.shape) for s in structure.sums(torch.zeros(7, 3))] == [(1, 1, 1), (1, 3, 3)]


def test_what_nothing_depends_on_keeps_its_prior():
    structure = Kronecker()
    sums = {"w": structure.sums(torch.zeros(5, 2, 3, dtype=torch.float64))}
    used = {"v": structure.sums(torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))}
    c = Curvature(structure, sums | used, sums | used, (1.0, 1.0), (5, 5))
    mode = {"w": torch.ones(2, 3, dtype=torch.float64), "v": torch.ones(2, dtype=torch.float64)}
    posterior, found = laplace_over_all("toy", c, mode)
    torch.testing.assert_close(posterior.std["w"], torch.full((2, 3), found["prior_precision"] ** -0.5).double())
    assert (posterior.std["v"] < posterior.std["w"].min()).all()
