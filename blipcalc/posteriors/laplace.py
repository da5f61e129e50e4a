"""Laplace posterior: a Gaussian around the trained weights from the curvature of the likelihood, without retraining.

    θ ~ N(θ̂, (G + τ 1)⁻¹)

with σ_E, σ_F and τ at the maximum of the marginal likelihood (:mod:`~blipcalc.posteriors.marginal_likelihood`)

* over the last layers, in which the energy is linear: G is exact and full (:mod:`~blipcalc.posteriors.last_layer`),

      Σ_w = (σ_E⁻² Σ φφᵀ + σ_F⁻² Σ JᵀJ + τ 1)⁻¹
* over all weights: G is the Gauss-Newton matrix, its diagonal or a Kronecker product (:mod:`~blipcalc.posteriors.gauss_newton`).
  The predictions are those of the *linearised* network, for which the Gauss-Newton matrix is the Hessian (Immer, Korzepa, Bauer
  2021, arXiv 2008.08400); draws used as weights of the network itself would leave the range in which the quadratic form holds.
  The mean of the linearised network is the trained one.

Source: Daxberger et al. 2021, arXiv 2106.14806.  (Published as RACE-LA with the diagonal of energies alone, and with the
hyper-parameters left at their start, arXiv 2510.03046 and its code.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from blipcalc.core.contracts import Network
from blipcalc.core.graph import Graph
from blipcalc.posteriors.gauss_newton import Curvature, Diagonal, Structure, curvature
from blipcalc.posteriors.gaussian import GaussianMethod, GaussianPosterior
from blipcalc.posteriors.kronecker import Kronecker
from blipcalc.posteriors.last_layer import Gram, LastLayerMethod, LastLayerPosterior, flat, inverse_root, last_weights
from blipcalc.posteriors.last_layer_jacobians import accumulate, jacobians
from blipcalc.posteriors.marginal_likelihood import log_likelihood, maximum_evidence
from blipcalc.posteriors.method import Part
from blipcalc.process import plain_state


def last_layer_laplace(weights: Mapping[str, Tensor], gram: Gram) -> tuple[LastLayerPosterior, dict[str, Any]]:
    """Return the Laplace posterior at the maximum of the marginal likelihood, with its σ_E, σ_F and τ."""
    mode = flat(weights)
    start = (
        math.sqrt(gram.energy_sse / gram.n_energy),
        math.sqrt(gram.forces_sse / gram.n_forces),
        len(mode) / float(mode.square().sum()),
    )
    found = maximum_evidence(lambda *values: gram.log_evidence(mode, *values), start)
    values = (torch.tensor(found[k], dtype=torch.float64) for k in ("noise_energy", "noise_forces", "prior_precision"))
    return LastLayerPosterior(weights, inverse_root(gram.precision(*values)), "laplace"), found


class Laplace(LastLayerMethod):
    """An exact Gaussian over the last layers of a trained network, from one pass over its training frames."""

    name = "laplace"
    reads = ("train",)

    @plain_state()
    def fit(
        self,
        network: Network,
        members: Mapping[str, Tensor],
        frames: Mapping[Part, Sequence[Graph]],
        device: str = "cpu",
    ) -> tuple[LastLayerPosterior, dict[str, Any]]:
        """Return the posterior at the maximum of the marginal likelihood; figures: its σ_E, σ_F and τ."""
        return last_layer_laplace(last_weights(network), accumulate(jacobians(network, frames["train"], device)))


def log_evidence(
    curved: Curvature, mode: Mapping[str, Tensor], noise_energy: Tensor, noise_forces: Tensor, prior: Tensor
) -> Tensor:
    """Return the logarithm of the marginal likelihood of the labels by all weights, with all constants."""
    total = log_likelihood(curved.sse, curved.n, (noise_energy, noise_forces))
    for name, value in mode.items():
        precision = curved.block(name, noise_energy, noise_forces).values + prior
        penalty = prior * value.double().square().sum()
        total = total - 0.5 * (penalty - value.numel() * prior.log() + precision.log().sum())
    return total


def laplace_over_all(
    name: str, curved: Curvature, mode: Mapping[str, Tensor]
) -> tuple[GaussianPosterior, dict[str, float]]:
    """Return the posterior around the trained weights {parameter: value}, with its σ_E, σ_F and τ."""
    of_energy, of_forces = (math.sqrt(s / n) for s, n in zip(curved.sse, curved.n, strict=True))
    norm = sum(float(value.double().square().sum()) for value in mode.values())
    start = (of_energy, of_forces, sum(value.numel() for value in mode.values()) / norm)
    found = maximum_evidence(partial(log_evidence, curved, mode), start)
    std: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}
    right: dict[str, Tensor] = {}
    for key, value in mode.items():
        block = curved.block(key, found["noise_energy"], found["noise_forces"])
        std[key] = (block.values + found["prior_precision"]).rsqrt().reshape(value.shape).to(value.dtype)
        # row order, as after reading a file, so that products have the same last digits
        for axes, turned in ((block.left, left), (block.right, right)):
            if axes is not None:
                turned[key] = axes.to(value.dtype).contiguous()
    return GaussianPosterior(name, dict(mode), std, linear=True, left=left, right=right), found


class _OverAllWeights(GaussianMethod, Protocol):
    """Base of the two Laplace methods over all weights.

    structure : form in which the Gauss-Newton matrix is kept
    """

    structure: ClassVar[Structure]
    is_linear: ClassVar[bool] = True
    reads: ClassVar[tuple[Part, ...]] = ("train",)

    @plain_state()
    def fit(
        self,
        network: Network,
        members: Mapping[str, Tensor],
        frames: Mapping[Part, Sequence[Graph]],
        device: str = "cpu",
    ) -> tuple[GaussianPosterior, dict[str, Any]]:
        """Return the posterior at the maximum of the marginal likelihood; figures: its σ_E, σ_F and τ."""
        mode = {name: value.detach().cpu().clone() for name, value in network.named_parameters()}
        return laplace_over_all(self.name, curvature(network, frames["train"], self.structure, device), mode)


class LaplaceAll(_OverAllWeights):
    """A Gaussian over all weights of a trained, linearised network, from the diagonal of the Gauss-Newton matrix."""

    name = "laplace-all"
    structure = Diagonal()


class LaplaceKron(_OverAllWeights):
    """A Gaussian over all weights of a trained, linearised network, from one Kronecker product per weight matrix."""

    name = "laplace-kron"
    structure = Kronecker()
    is_turned = True
