"""Exact Gaussian over the weights of the last layers, in which the energy is linear, without retraining.

    E = E_0 + w · φ,   F = F_0 - w · ∂φ/∂r,   w ~ N(ŵ, Σ_w)   =>   Var E = φᵀ Σ_w φ,   Cov F = J Σ_w Jᵀ

| symbol | variable |
|---|---|
| ŵ | ``weights``, the first row of every last layer (that of the energy), and its bias |
| Σ_w = L Lᵀ | ``factor`` L, (P, P) |

Nothing is linearised: a draw of w is an ordinary network.  :mod:`~blipcalc.posteriors.laplace` and
:mod:`~blipcalc.posteriors.llpr` give Σ_w, both from sums of products of φ and J (:class:`Gram`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from blipcalc.core.contracts import Draws, Network
from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.posteriors.marginal_likelihood import log_likelihood
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.posteriors.stored import OneNetwork, refuse_more, refuse_noise, refuse_none


def last_weights(network: Network) -> dict[str, Tensor]:
    """Return {parameter: value} of the last layers; raises :class:`ConfigurationError` for a network that names none."""
    names = {f"{layer}.{kind}" for layer in network.last_layers() for kind in ("weight", "bias")}
    found = {name: value.detach().cpu().double() for name, value in network.named_parameters() if name in names}
    if not found:
        raise ConfigurationError(
            f"{type(network).__name__} names no last layers, in whose weights its energy is linear"
        )
    return found


def weights_alone(name: str, network: Network, members: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the last weights of a network for a posterior over them alone; raises :class:`DrawsError` for members or noise."""
    refuse_noise(name, network)
    refuse_more(name, members)
    return last_weights(network)


def flat(weights: Mapping[str, Tensor]) -> Tensor:
    """Return (P,) weights of the energy: the first row of every weight, the first entry of every bias."""
    return torch.cat([value[0].reshape(-1) for value in weights.values()])


def with_rows(weights: Mapping[str, Tensor], rows: Tensor) -> Draws:
    """Return K networks with the rows (K, P) as weights of the energy; weights of other outputs stay."""
    overrides, at = {}, 0
    for name, value in weights.items():
        size = value[0].numel()
        stacked = value.expand(len(rows), *value.shape).clone()
        stacked[:, 0] = rows[:, at : at + size].reshape(len(rows), *value.shape[1:])
        overrides[name], at = stacked, at + size
    return Draws(len(rows), overrides)


@dataclass(frozen=True)
class LastLayerPosterior(OneNetwork):
    """Gaussian N(ŵ, L Lᵀ) over the weights of the energy in the last layers.

    weights : {parameter: value} of the last layers at the mode, float64
    factor : L (P, P), float64
    name : of the method, ``laplace`` or ``llpr``
    """

    weights: Mapping[str, Tensor]
    factor: Tensor
    name: str

    def numbers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the standard normal numbers (P,) of one draw, float64."""
        return {"weights": torch.randn(len(self.factor), generator=generator, dtype=torch.float64)}

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """Return K independent draws; draw k does not depend on K."""
        refuse_none(n)
        # one by one: the last digits of a product of matrices depend on the number of its rows
        noise = torch.stack([self.factor @ self.numbers(generator)["weights"] for _ in range(n)])
        return with_rows(self.weights, flat(self.weights) + noise)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a file keeps beside the network."""
        return {"factor": self.factor}


class LastLayerMethod(PosteriorMethod, Protocol):
    """Base of the methods that give a Gaussian over the weights of the last layers."""

    def restore(
        self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> LastLayerPosterior:
        """Restore the posterior from a network and the factor of the Gaussian."""
        weights = weights_alone(self.name, network, members)
        n = len(flat(weights))
        found = {key: tuple(value.shape) for key, value in tensors.items()}
        if found != {"factor": (n, n)}:
            raise DrawsError(f"expected a factor of shape ({n}, {n}), got {found}")
        return LastLayerPosterior(weights, tensors["factor"].double(), self.name)


@dataclass(frozen=True)
class Gram:
    """Sums from one pass over the data, over S energies and 3N force components.

    energy, forces : (P, P) Σ φφᵀ eV² and Σ JᵀJ (eV/Å)², per squared unit of weight
    energy_sse, forces_sse : squared residuals of the network, eV² and (eV/Å)²
    n_energy, n_forces : numbers of energies and force components
    """

    energy: Tensor
    forces: Tensor
    energy_sse: float
    forces_sse: float
    n_energy: int
    n_forces: int

    def precision(self, noise_energy: Tensor, noise_forces: Tensor, prior: Tensor) -> Tensor:
        """Return Σ_w⁻¹ for σ_E (eV), σ_F (eV/Å) and τ."""
        identity = torch.eye(len(self.energy), dtype=self.energy.dtype)
        return self.energy / noise_energy**2 + self.forces / noise_forces**2 + prior * identity

    def log_evidence(self, weights: Tensor, noise_energy: Tensor, noise_forces: Tensor, prior: Tensor) -> Tensor:
        """Return the logarithm of the marginal likelihood of the labels, with all constants."""
        total = log_likelihood(
            (self.energy_sse, self.forces_sse), (self.n_energy, self.n_forces), (noise_energy, noise_forces)
        )
        total = total - 0.5 * prior * weights.square().sum() + 0.5 * len(weights) * prior.log()
        return total - 0.5 * torch.logdet(self.precision(noise_energy, noise_forces, prior))


def inverse_root(precision: Tensor) -> Tensor:
    """Return L with L Lᵀ = precision⁻¹; raises :class:`ConfigurationError` for a singular precision."""
    lower, failed = torch.linalg.cholesky_ex(precision)
    if failed:
        raise ConfigurationError(
            f"the curvature of {len(precision)} last weights is singular: are the data fewer than a few structures?"
        )
    return torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False).T.contiguous()
