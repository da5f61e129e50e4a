"""Mean-variance heads: outputs of a network for its label noise, beside the mean.

    σ²_E = Σ_i s² u_E² e^{h_i},    Σ_i = s² (u_F² e^{k_i} exp(Q_i) + ε² 1)     equivariant: k_i a scalar, Q_i a traceless tensor
                                   Σ_i = s² (u_F² L_i L_iᵀ + ε² 1)              paper: L_i lower triangular, six scalars

| symbol | variable |
|---|---|
| h_i, k_i, entries of L_i | ``raw`` (N, n), invariant outputs of the readout |
| Q_i | ``quadrupole`` (N, 3, 3), symmetric and traceless, rotates with the molecule |
| s | the energy scale of the network, eV (and eV/Å) |
| u_E, u_F | ``unit`` (2,), residuals found in training before variances were trained; one until then |
| ε | ``floor`` |

Forces stay the gradient of the mean energy; the covariance is a direct output, as in Willow, …, Myung, arXiv 2510.03046, whose
L is in the axes of the laboratory and does not rotate with the molecule.  The equivariant form is our default (cf. e²IP, arXiv
2602.10419).  Nix and Weigend 1994 is the source of heads that predict a variance.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from blipcalc.core.contracts import Heads, ModelOutput
from blipcalc.core.graph import GraphTensors
from blipcalc.nn.scatter import segment_sum
from blipcalc.nn.symmetric import bounded, symmetric_exp
from blipcalc.settings import Settings

#: bounds of logarithms of variances, in units of the scale, so wide that only divergence reaches them
LOWEST, HIGHEST = -20.0, 10.0
#: largest norm of Q: standard deviations along two axes differ by at most e^{√2 · 4 / 2}, a factor of 17
ANISOTROPY = 4.0


class HeadsConfig(Settings):
    """Settings of the outputs beside the energy."""

    predict: Heads = Field(
        default="none",
        description="none; energy: its variance (2 heads, for nll_e); joint: and force covariances (nll_jef)",
    )
    covariance: Literal["equivariant", "paper"] = Field(
        default="equivariant",
        description="form of force covariances: turning with the molecule, or six numbers in the axes of the lab",
    )
    pooling: Literal["sum", "mean"] = Field(
        default="sum",
        description="variance of the energy: sum over atoms, so that it grows with the system; or the published PyTorch code's "
        "exponential of a mean of logarithms",
    )
    floor: float = Field(
        default=3e-4,
        gt=0,
        description="ε: no standard deviation of a force falls below it, in units of the label scale",
    )

    @property
    def n_outputs(self) -> int:
        """Number of outputs of a readout, including the energy."""
        if self.predict == "joint":
            return 3 if self.has_quadrupole else 8
        return 1 if self.predict == "none" else 2

    @property
    def has_quadrupole(self) -> bool:
        """Whether the network gives a tensor per atom."""
        return self.predict == "joint" and self.covariance == "equivariant"


def with_noise(
    output: ModelOutput,
    config: HeadsConfig,
    raw: Tensor,
    quadrupole: Tensor | None,
    graph: GraphTensors,
    scale: Tensor,
    unit: Tensor | None,
) -> ModelOutput:
    """Return the output with variances, float64: ``energy_var`` (S,) eV², and for joint heads ``forces_cov`` (N, 3, 3) (eV/Å)².

    raw (N, n - 1) the outputs after the first, quadrupole (N, 3, 3) or None, scale eV, unit (2,) or None without heads
    """
    if config.predict == "none" or unit is None:
        return output
    raw, (unit_energy, unit_forces) = raw.double(), unit.double()
    logarithm = raw[:, 0].clamp(LOWEST, HIGHEST)
    if config.pooling == "sum":
        energy_var = segment_sum(logarithm.exp(), graph.batch, graph.n_structures)
    else:
        sums = segment_sum(torch.stack([logarithm, torch.ones_like(logarithm)], dim=1), graph.batch, graph.n_structures)
        energy_var = (sums[:, 0] / sums[:, 1]).exp()
    output = output._replace(energy_var=(scale * unit_energy) ** 2 * energy_var)
    if config.predict == "energy":
        return output
    if config.has_quadrupole and quadrupole is not None:
        shape = symmetric_exp(bounded(quadrupole.double(), ANISOTROPY))
        covariance = raw[:, 1].clamp(LOWEST, HIGHEST).exp()[:, None, None] * shape
    else:
        factor = lower_triangle(raw[:, 1:])
        covariance = factor @ factor.transpose(-1, -2)
    floor = config.floor**2 * torch.eye(3, dtype=covariance.dtype, device=covariance.device)
    return output._replace(forces_cov=scale**2 * (unit_forces**2 * covariance + floor))


def lower_triangle(raw: Tensor) -> Tensor:
    """Return six numbers (xx, yy, zz, yz, xz, xy) as L with an exponentiated diagonal; (N, 6) -> (N, 3, 3)."""
    xx, yy, zz = raw[:, :3].clamp(LOWEST / 2, HIGHEST / 2).exp().unbind(dim=1)
    yz, xz, xy = raw[:, 3:].unbind(dim=1)
    zero = torch.zeros_like(xx)
    rows = [(xx, zero, zero), (xy, yy, zero), (xz, yz, zz)]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
