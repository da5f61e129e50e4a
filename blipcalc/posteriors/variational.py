"""Variational linear layers: the weight noise of BLIP.

    q(ω) = N(θ, α θ²)   ⟺   ω = θ ∘ (1 + √α ε),   ε ~ N(0, 1)

with one α per row r (atom or pair) and layer.  There are two modes:

frozen (eq. R, methods of this project for MD): one ε per *weight* and draw, the same for all rows, structures and steps

    z_r = θ h_r + b + √α_r (θ ∘ ε) h_r

local (eq. LR, Coscia, de Haan, Welling 2025; local reparametrisation, Kingma et al. 2015): a fresh ε per row and channel

    z_r = θ h_r + b + √( α_r (θ ∘ θ)(h_r ∘ h_r) + δ ) ∘ ε_r

| symbol | variable |
|---|---|
| θ, b | ``weight`` (out, in), ``bias`` (out,) |
| α_r | ``alpha`` (rows,) |
| ε | ``weight_noise`` (out, in) or ``row_noise`` (rows, out) |
| δ | ``VARIANCE_FLOOR`` |

α and noise are *slots*: buffers of size zero by default, which a caller fills for one call through ``functional_call``.  With
empty slots the layer equals its original linear layer, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: feature unit²; below it the square root of eq. LR curves sharply, which spoils the derivative of forces
VARIANCE_FLOOR = 1e-10


class VariationalLinear(nn.Module):
    """A linear layer with open slots for α and weight noise; it shares the parameters of the layer that it replaces."""

    alpha: Tensor
    weight_noise: Tensor
    row_noise: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        for slot in ("alpha", "weight_noise", "row_noise"):
            self.register_buffer(slot, torch.empty(0), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Apply the layer, (rows, …, in) -> (rows, …, out)."""
        z = nn.functional.linear(h, self.weight, self.bias)
        if self.weight_noise.numel():
            noise = nn.functional.linear(h, self.weight * self.weight_noise)
            return z + _per_row(self.alpha.sqrt(), noise) * noise
        if self.row_noise.numel():
            variance = nn.functional.linear(h.square(), self.weight.square())
            return z + (_per_row(self.alpha, variance) * variance + VARIANCE_FLOOR).sqrt() * self.row_noise
        return z


def _per_row(alpha: Tensor, like: Tensor) -> Tensor:
    """Reshape (rows,) to (rows, 1, …) with the number of axes of ``like``."""
    return alpha.reshape(alpha.shape[0], *([1] * (like.ndim - 1)))


def kl_divergence(alpha: Tensor, alpha_prior: float) -> Tensor:
    """Return KL(q ‖ p) per weight of N(θ, α θ²) from N(0, α₀ θ²); θ cancels.

        KL = ½ [ (α + 1)/α₀ + ln α₀ - ln α - 1 ],    minimum 1/(2 α₀) at α = α₀

    Source: Coscia, de Haan, Welling 2025 (arXiv 2508.14022), eq. 9 in closed form.
    """
    return 0.5 * ((alpha + 1.0) / alpha_prior - torch.log(alpha / alpha_prior) - 1.0)
