"""Laplace over all weights, with the diagonal of the Gauss-Newton matrix of energies and forces.

    H_kk = σ_E⁻² Σ (∂E/∂θ_k)² + σ_F⁻² Σ (∂F/∂θ_k)² + τ,      θ ~ N(θ̂, 1 / H_kk)
    ln p(D) = ln p(D | θ̂) - τ ‖θ̂‖² / 2 + P/2 ln τ - ½ Σ_k ln H_kk

Its predictions are those of the *linearised* network, for which the Gauss-Newton matrix is the Hessian (Immer, Korzepa, Bauer
2021, arXiv 2008.08400); draws put into the network itself would leave the range where the quadratic form means anything.  The
mean of the linearised network is the trained one.

σ_E, σ_F and τ stand where the marginal likelihood has its maximum.  (Published as RACE-LA with energies alone, and with the
hyper-parameters left at their start, arXiv 2510.03046 and its code.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from blipcalc.bayes.gaussian import GaussianPosterior
from blipcalc.settings import Settings


def maximum_evidence(log_evidence: Callable[..., Tensor], start: tuple[float, float, float]) -> dict[str, float]:
    """σ_E, σ_F and τ at the maximum of a function of them, and its value there; searched in their logarithms."""
    logs = torch.tensor([math.log(max(x, 1e-12)) for x in start], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logs], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -log_evidence(*logs.exp())
        loss.backward()
        return loss

    optimizer.step(closure)
    found = logs.detach().exp()
    names = ("noise_energy", "noise_forces", "prior_precision")
    return dict(zip(names, found.tolist(), strict=True)) | {"log_evidence": float(log_evidence(*found))}


def log_likelihood(sse: tuple[float, float], n: tuple[int, int], noise: tuple[Tensor, Tensor]) -> Tensor:
    """Logarithm of the Gaussian likelihood of energies and forces with squared residuals ``sse``, and all constants."""
    terms = [
        -0.5 * s / sigma**2 - count * (sigma.log() + 0.5 * math.log(2 * math.pi))
        for s, count, sigma in zip(sse, n, noise, strict=True)
    ]
    return terms[0] + terms[1]


class LaplaceConfig(Settings):
    """Which Laplace."""

    weights: Literal["last", "all"] = Field(
        "last", description="last: exact and full over the last layers; all: the diagonal over all weights, linearised"
    )


@dataclass(frozen=True)
class Curvature:
    """What one pass over the data leaves: sums of squared derivatives by every weight, and squared residuals.

    energy, forces : {parameter: Σ (∂E/∂θ)²} eV² and {parameter: Σ (∂F/∂θ)²} (eV/Å)²
    sse, n : squared residuals (eV², (eV/Å)²), and numbers of energies and force components
    """

    energy: Mapping[str, Tensor]
    forces: Mapping[str, Tensor]
    sse: tuple[float, float]
    n: tuple[int, int]

    def laplace(self, mode: Mapping[str, Tensor]) -> tuple[GaussianPosterior, dict[str, float]]:
        """The posterior around the trained weights, and the σ_E, σ_F and τ it stands on."""
        theta, of_energy, of_forces = (
            torch.cat([part[name].reshape(-1).double() for name in mode]) for part in (mode, self.energy, self.forces)
        )

        def log_evidence(noise_energy: Tensor, noise_forces: Tensor, prior: Tensor) -> Tensor:
            diagonal = of_energy / noise_energy**2 + of_forces / noise_forces**2 + prior
            total = log_likelihood(self.sse, self.n, (noise_energy, noise_forces))
            return total - 0.5 * prior * theta.square().sum() + 0.5 * (len(theta) * prior.log() - diagonal.log().sum())

        start = [math.sqrt(s / n) for s, n in zip(self.sse, self.n, strict=True)]
        found = maximum_evidence(log_evidence, (*start, len(theta) / float(theta.square().sum())))
        energy, forces, prior = (found[name] for name in ("noise_energy", "noise_forces", "prior_precision"))
        std = {name: (self.energy[name] / energy**2 + self.forces[name] / forces**2 + prior).rsqrt() for name in mode}
        std = {name: value.to(mode[name].dtype) for name, value in std.items()}
        return GaussianPosterior("laplace-all", dict(mode), std, linear=True), found
