"""Radial bases and cutoff envelopes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class BesselBasis(nn.Module):
    """Spherical Bessel functions of order zero on [0, cutoff].

        e_n(r) = sqrt(2 / c) · sin(n π r / c) / r,   n = 1 … n_basis

    | symbol | variable |
    |---|---|
    | r | ``distances`` (E,) Å |
    | c | ``cutoff`` Å |

    Source: Gasteiger, Groß, Günnemann, ICLR 2020, eq. 7 (arXiv 2003.03123).
    """

    frequencies: Tensor

    def __init__(self, cutoff: float, n_basis: int) -> None:
        super().__init__()
        self.cutoff = float(cutoff)
        self.register_buffer(
            "frequencies", torch.arange(1, n_basis + 1, dtype=torch.float64) * math.pi / cutoff, persistent=False
        )

    def forward(self, distances: Tensor) -> Tensor:
        """Compute the basis (E, n_basis) at distances (E,) Å."""
        r = distances[:, None]
        return math.sqrt(2.0 / self.cutoff) * torch.sin(self.frequencies.to(r.dtype) * r) / r


def polynomial_envelope(distances: Tensor, cutoff: float, p: int = 6) -> Tensor:
    """Return a polynomial that is 1 at zero and vanishes with its first two derivatives at the cutoff.

        u(x) = 1 - (p+1)(p+2)/2 · x^p + p(p+2) · x^(p+1) - p(p+1)/2 · x^(p+2),   x = r / c,   0 beyond

    Source: Gasteiger, Groß, Günnemann, ICLR 2020, eq. 8.

    distances (E,) Å, cutoff Å -> (E,)
    """
    x = distances / cutoff
    u = 1.0 - x**p * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x)
    return torch.where(x < 1.0, u, torch.zeros_like(u))
