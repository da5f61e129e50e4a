"""POPS: a uniform posterior over a box of last-layer weights.

For every label the box contains the nearest weights that fit it exactly:

    δ_n = Σ_w x_n r_n / (x_nᵀ Σ_w x_n),     w = ŵ + V c,     c_i ~ U(min_n v_iᵀ δ_n, max_n v_iᵀ δ_n)

| symbol | variable |
|---|---|
| ŵ; Σ_w = L Lᵀ | ``weights``; ``factor``, of the Laplace posterior (:mod:`blipcalc.posteriors.last_layer`) |
| x_n, the derivative by w of an energy, φ, or of a force component, a row of J | a column of ``rows`` |
| r_n, label less prediction of the trained network | ``errors`` |
| δ_n, the smallest change in the metric Σ_w⁻¹ with x_nᵀ δ_n = r_n | a column of :func:`corrections` |
| V, eigenvectors of Σ_n δ_n δ_nᵀ | ``axes`` |

A likelihood of independent label noise narrows the weights with every label, even around errors that no weights correct.  The
box does not: the predictions of its weights reach every label that it was made from.  It attributes all residuals to the limits
of the network, so it is for labels with little noise.

(Swinburne and Perez 2025, Mach. Learn.: Sci. Technol. 6, 015008, doi 10.1088/2632-2153/ad9fce, arXiv 2402.01810.  Here the box
is the whole posterior, without the Gaussian of the likelihood beside it, and it holds ŵ.  Their package, popsregression 0.4,
leaves out the half of the labels with the least leverage x_nᵀ Σ_w x_n; here see :data:`LEVERAGE`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from blipcalc.core.contracts import Draws, Network
from blipcalc.core.graph import Graph
from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.posteriors.laplace import last_layer_laplace
from blipcalc.posteriors.last_layer import LastLayerPosterior, flat, last_weights, weights_alone, with_rows
from blipcalc.posteriors.last_layer_jacobians import accumulate, jacobians
from blipcalc.posteriors.method import Part, PosteriorMethod
from blipcalc.posteriors.stored import OneNetwork, refuse_none
from blipcalc.process import plain_state

#: least leverage x_nᵀ Σ_w x_n / σ² of a label with noise σ, relative to P / N, the upper bound of its mean over N labels.  A
#: label that depends a hundred times less on the weights, such as a force that vanishes by symmetry, needs a hundred times larger
#: change of weights to fit its own noise.  In 60 frames of three molecules of rMD17 the least is 6e-3
LEVERAGE = 1e-4


@dataclass(frozen=True)
class PopsPosterior(OneNetwork):
    """Uniform distribution over ŵ + V c for c between ``low`` and ``high``; its mean is the middle of the box, not ŵ.

    weights : {parameter: value} of the last layers of the trained network, float64
    axes : V (P, P), orthogonal; low, high : (P,); float64
    """

    weights: Mapping[str, Tensor]
    axes: Tensor
    low: Tensor
    high: Tensor
    name: ClassVar[str] = "pops"

    def numbers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the numbers (P,) of one draw, uniform from 0 to 1, float64."""
        return {"weights": torch.rand(len(self.low), generator=generator, dtype=torch.float64)}

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """Return K independent draws; draw k does not depend on K."""
        refuse_none(n)
        return with_rows(self.weights, flat(self.weights) + torch.stack([self._one(generator) for _ in range(n)]))

    def _one(self, generator: torch.Generator) -> Tensor:
        """Return V c (P,) of one draw."""
        return self.axes @ (self.low + (self.high - self.low) * self.numbers(generator)["weights"])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a file keeps beside the network."""
        return {"axes": self.axes, "low": self.low, "high": self.high}


def corrections(factor: Tensor, rows: Tensor, errors: Tensor, least: float) -> Tensor:
    """Return δ (P, m) of the m of n labels that depend on the weights.

    factor : L (P, P); rows : x (P, n) and errors : r (n,), of energies or of force components
    least : smallest x_nᵀ Σ_w x_n of the labels that are used, eV² or (eV/Å)²
    """
    whitened = factor.T @ rows
    leverage = whitened.square().sum(dim=0)
    moved = leverage > least
    return factor @ (whitened[:, moved] * (errors[moved] / leverage[moved]))


def pops(laplace: LastLayerPosterior, labels: Sequence[tuple[Tensor, Tensor, float]]) -> PopsPosterior:
    """Return the box around the mode of a Laplace posterior.

    labels : ``rows`` and ``errors`` of :func:`corrections`, and σ (eV or eV/Å), of any number of labels at a time
    raises : ConfigurationError where no label with a residual depends on the last layers
    """
    factor, second = laplace.factor, torch.zeros_like(laplace.factor)
    share = LEVERAGE * len(factor) / sum(len(errors) for _, errors, _ in labels)
    for rows, errors, noise in labels:
        found = corrections(factor, rows, errors, share * noise**2)
        second += found @ found.T
    axes = torch.linalg.eigh(second).eigenvectors.contiguous()
    low = high = torch.zeros(len(axes), dtype=axes.dtype)
    for rows, errors, noise in labels:
        reached = axes.T @ corrections(factor, rows, errors, share * noise**2)
        low, high = torch.cat([low[:, None], high[:, None], reached], dim=1).aminmax(dim=1)
    if not (low < high).any():
        raise ConfigurationError("no label that the network misses depends on its last layers; give others")
    return PopsPosterior(laplace.weights, axes, low, high)


class Pops(PosteriorMethod):
    """A box of last-layer weights of a trained network, with predictions that reach every label."""

    name = "pops"
    reads = ("train",)

    @plain_state()
    def fit(
        self,
        network: Network,
        members: Mapping[str, Tensor],
        frames: Mapping[Part, Sequence[Graph]],
        device: str = "cpu",
    ) -> tuple[PopsPosterior, dict[str, Any]]:
        """Return the box around the Laplace posterior; figures: the σ_E, σ_F and τ of that.

        The derivatives of all labels are used three times, so they stay in memory: 8 P bytes for each label.
        """
        outputs = list(jacobians(network, frames["train"], device))
        posterior, figures = last_layer_laplace(last_weights(network), accumulate(outputs))
        noise = figures["noise_energy"], figures["noise_forces"]
        labels = [
            (of_label.flatten(1), error.flatten(), sigma)
            for *errors, of_structure in outputs
            for of_label, error, sigma in zip(of_structure, errors, noise, strict=True)
        ]
        return pops(posterior, labels), figures

    def restore(self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> PopsPosterior:
        """Restore the posterior from a network and the sides of its box."""
        weights = weights_alone(self.name, network, members)
        n = len(flat(weights))
        expected = {"axes": (n, n), "low": (n,), "high": (n,)}
        found = {key: tuple(value.shape) for key, value in tensors.items()}
        if found != expected:
            raise DrawsError(f"expected tensors of the shapes {expected}, got {found}")
        return PopsPosterior(weights, **{key: value.double() for key, value in tensors.items()})
