"""IVON: variational learning of a diagonal Gaussian at the cost of Adam.

    σ = 1 / √(λ (h + δ)),   θ = m + σ ε,   ĝ = ∇ℓ(θ),   ĥ = ĝ (θ - m) / σ²
    g ← β₁ g + (1 - β₁) ĝ
    h ← β₂ h + (1 - β₂) ĥ + ½ (1 - β₂)² (h - ĥ)² / (h + δ)
    m ← m - α (h₀ + δ) clip[ (g / (1 - β₁ᵗ) + δ m) / (h + δ) ]

| symbol | variable |
|---|---|
| ℓ, mean loss of an example | the loss |
| λ, effective number of examples | ``ess`` |
| δ, precision of the prior over λ | ``weight_decay`` |
| h, estimate of the Hessian's diagonal; h₀ | ``hess``; ``hess_init`` |
| m; g | the parameters; ``momentum`` |

For a quadratic loss the fixed point of h is the diagonal of the Hessian, and N(m, σ²) is the best diagonal Gaussian.  Source:
Shen et al. 2024 (arXiv 2402.17641), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from blipcalc.errors import ConfigurationError
from blipcalc.posteriors.gaussian import GaussianMethod, GaussianPosterior
from blipcalc.posteriors.method import RESIDUAL, OnlineFit
from blipcalc.settings import Settings


class IvonConfig(Settings):
    """Settings of the IVON optimiser."""

    ess: float | None = Field(
        default=None,
        gt=0,
        description="λ, weight of the mean loss against the prior; None: what makes the loss the log-likelihood of all force "
        f"components in training, where labels are off by {RESIDUAL} of the label scale",
    )
    rate: float = Field(
        default=50.0,
        gt=0,
        description="factor on the learning rate of the training: steps are not in units of weights, as Adam's are",
    )
    hess_init: float = Field(default=0.5, gt=0, description="h₀")
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(
        default=0.9995, ge=0, lt=1, description="its memory, 1/(1 - β₂) steps, must be short beside the training"
    )
    weight_decay: float = Field(default=1e-5, ge=0, description="δ")
    clip_radius: float = Field(default=0.05, gt=0, description="largest step of a weight before the learning rate")


class IvonOptimizer(torch.optim.Optimizer):
    """IVON optimiser, whose parameters are the means m.

    A step takes the gradient at sampled weights: :meth:`sample` gives them, and ``p.grad`` of every mean must be the gradient
    with respect to its sample.  Parameters without a gradient stay as they are.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], config: IvonConfig, ess: float) -> None:
        super().__init__(groups, {"lr": 0.1})
        self.config, self.ess = config, ess
        for p in self._all():
            self.state[p] = {
                "step": torch.zeros(()),
                "momentum": torch.zeros_like(p),
                "hess": torch.full_like(p, config.hess_init),
            }

    def _all(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def std(self, p: Tensor) -> Tensor:
        """Return σ of a parameter."""
        return torch.rsqrt(self.ess * (self.state[p]["hess"] + self.config.weight_decay))

    @torch.no_grad()
    def sample(self, named: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return sampled weights at which to take the gradient, as new leaves.

        They are drawn on the CPU, whose random stream does not depend on the device.
        """
        samples = {}
        for name, p in named.items():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
            samples[name] = (p + self.std(p) * noise).requires_grad_(True)
            self.state[p]["noise"] = noise
        return samples

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # the gradient is there already
        """Update means, momenta and Hessians."""
        c, delta = self.config, self.config.weight_decay
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                h, g = state["hess"], state["momentum"]
                state["step"] += 1
                estimate = p.grad * state.pop("noise") / self.std(p)
                g.lerp_(p.grad, 1 - c.beta1)
                h.copy_(
                    c.beta2 * h
                    + (1 - c.beta2) * estimate
                    + 0.5 * (1 - c.beta2) ** 2 * (h - estimate).square() / (h + delta)
                )
                debiased = g / (1 - c.beta1 ** float(state["step"]))
                update = ((debiased + delta * p) / (h + delta)).clamp(-c.clip_radius, c.clip_radius)
                p -= group["lr"] * (c.hess_init + delta) * update

    def gaussian(self, named: Mapping[str, Tensor]) -> GaussianPosterior:
        """Return the current N(m, σ²)."""
        mean = {name: p.detach().cpu().clone() for name, p in named.items()}
        return GaussianPosterior("ivon", mean, {name: self.std(p).detach().cpu() for name, p in named.items()})


class IvonFit(OnlineFit):
    """Training with IVON in place of Adam; its gradients measure curvature, so they are not clipped."""

    clips = False

    def __init__(self, config: IvonConfig, ess: float) -> None:
        self.config, self.ess = config, config.ess or ess
        self._ivon: IvonOptimizer | None = None

    @property
    def ivon(self) -> IvonOptimizer:
        """The optimiser; raises ConfigurationError before :meth:`optimizer` is called."""
        if self._ivon is None:
            raise ConfigurationError("a training with IVON begins with its optimizer(); none was asked for")
        return self._ivon

    def optimizer(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> IvonOptimizer:
        """Make the IVON optimiser of groups of parameters."""
        own = [{**group, "factor": group["factor"] * self.config.rate} for group in groups]
        self._ivon = IvonOptimizer(own, self.config, self.ess)
        return self._ivon

    def step_weights(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return a sample around the means."""
        return self.ivon.sample(parameters, generator)

    def posterior(self, parameters: Mapping[str, Tensor]) -> tuple[GaussianPosterior, Mapping[str, Tensor]]:
        """Return N(m, σ²) and m."""
        found = self.ivon.gaussian(parameters)
        return found, found.mean


class Ivon(GaussianMethod):
    """A Gaussian over all weights, from a variational optimiser in place of Adam."""

    name = "ivon"
    Config = IvonConfig
    settings: IvonConfig
    is_online = True

    def online(self, ess: float) -> IvonFit:
        """Return a training with IVON."""
        return IvonFit(self.settings, ess)
