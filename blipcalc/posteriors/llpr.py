"""LLPR, the last-layer prediction rigidity: a Gaussian over the last layers, scaled to held-out errors.

    Σ_w = α² (Fᵀ F + ς² 1)⁻¹

where the rows of F are the derivatives of energies and forces in units of their residuals, α² comes from maximum likelihood on
frames outside the training set, and ς² is the smallest that keeps the matrix well conditioned.

Source: Bigi, Chong, Ceriotti, Grasselli 2024, arXiv 2403.02251.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blipcalc.core.contracts import Network
from blipcalc.core.graph import Graph
from blipcalc.errors import ConfigurationError
from blipcalc.posteriors.last_layer import Gram, LastLayerMethod, LastLayerPosterior, inverse_root, last_weights
from blipcalc.posteriors.last_layer_jacobians import accumulate, jacobians
from blipcalc.posteriors.method import Part
from blipcalc.process import plain_state

#: ς² relative to the mean eigenvalue of FᵀF
REGULARISATION = 1e-10


def llpr(weights: Mapping[str, Tensor], gram: Gram) -> LastLayerPosterior:
    """Return the LLPR posterior for α = 1; see :func:`rescaled`."""
    scaled = gram.energy * (gram.n_energy / gram.energy_sse) + gram.forces * (gram.n_forces / gram.forces_sse)
    regular = REGULARISATION * scaled.diagonal().mean() * torch.eye(len(scaled), dtype=scaled.dtype)
    return LastLayerPosterior(weights, inverse_root(scaled + regular), "llpr")


def best_alpha(error: Tensor, variance: Tensor) -> float:
    """Return the maximum-likelihood α for errors with Gaussian variances α² v: root mean r² / v.

    Outputs that cannot vary, such as the force on an atom without neighbours, are left out.

    raises : ConfigurationError where none can vary
    """
    known = variance > 1e-12 * variance.max()
    if not known.any():
        raise ConfigurationError("no validation frame has forces that depend on the last layers; give others")
    return float((error[known].square() / variance[known]).mean()) ** 0.5


def rescaled(posterior: LastLayerPosterior, alpha: float) -> LastLayerPosterior:
    """Return the posterior with the variance times α²."""
    return LastLayerPosterior(posterior.weights, alpha * posterior.factor, posterior.name)


class Llpr(LastLayerMethod):
    """A Gaussian over the last layers of a trained network, scaled to the errors on its validation frames."""

    name = "llpr"
    reads = ("train", "validation")

    @plain_state()
    def fit(
        self,
        network: Network,
        members: Mapping[str, Tensor],
        frames: Mapping[Part, Sequence[Graph]],
        device: str = "cpu",
    ) -> tuple[LastLayerPosterior, dict[str, Any]]:
        """Return the posterior with the maximum-likelihood α for the forces of validation; figure: α."""
        posterior = llpr(last_weights(network), accumulate(jacobians(network, frames["train"], device)))
        errors, variances = [], []
        for _, forces, (_, of_forces) in jacobians(network, frames["validation"], device):
            spread = of_forces.flatten(1).T @ posterior.factor  # rows: force components
            errors.append(forces.flatten())
            variances.append(spread.square().sum(dim=1))
        alpha = best_alpha(torch.cat(errors), torch.cat(variances))
        return rescaled(posterior, alpha), {"alpha": alpha}
