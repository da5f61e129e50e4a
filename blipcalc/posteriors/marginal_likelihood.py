"""Marginal likelihood of energies and forces; its maximum sets the hyper-parameters of every Laplace posterior.

    ln p(D) = ln p(D | θ̂) - τ ‖θ̂‖² / 2 + P/2 ln τ - ½ ln det (G + τ 1),     G = σ_E⁻² G_E + σ_F⁻² G_F

with the Gaussian likelihood of residuals of σ_E and σ_F, and a prior of precision τ on P weights (MacKay 1992, Neural
Computation 4, 415).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def maximum_evidence(log_evidence: Callable[..., Tensor], start: tuple[float, float, float]) -> dict[str, float]:
    """Return σ_E, σ_F and τ at the maximum of a function of them, and its value; searched in their logarithms."""
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
    """Return the log of the Gaussian likelihood of energies and forces with squared residuals ``sse``, with all constants."""
    terms = [
        -0.5 * s / sigma**2 - count * (sigma.log() + 0.5 * math.log(2 * math.pi))
        for s, count, sigma in zip(sse, n, noise, strict=True)
    ]
    return terms[0] + terms[1]
