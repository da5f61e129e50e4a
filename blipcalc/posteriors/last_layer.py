"""A Gaussian over the weights of the last layers, in which the energy is linear: exact, and without retraining.

    E = E_0 + w · φ,   F = F_0 - w · ∂φ/∂r,   w ~ N(ŵ, Σ_w)   =>   Var E = φᵀ Σ_w φ,   Cov F = J Σ_w Jᵀ

| symbol | variable |
|---|---|
| ŵ | ``weights``, the first row of every last layer (that of the energy), and its bias |
| Σ_w = L Lᵀ | ``factor`` L, (P, P) |

Nothing is linearised: a draw of w is a network like any other.  Two ways to Σ_w:

* **Laplace** (Daxberger et al. 2021, arXiv 2106.14806), from the likelihood of energies and forces and a Gaussian prior,

      Σ_w = (σ_E⁻² Σ φφᵀ + σ_F⁻² Σ JᵀJ + τ 1)⁻¹

  with σ_E, σ_F and τ where the marginal likelihood has its maximum:

      ln p(D) = ln p(D | ŵ) - τ ‖ŵ‖² / 2 + P/2 ln τ - ½ ln det Σ_w⁻¹
* **LLPR** (Bigi, Chong, Ceriotti, Grasselli 2024, arXiv 2403.02251): Σ_w = α² (Fᵀ F + ς² 1)⁻¹, rows of F those of energies and
  forces in units of their residuals, α² by maximum likelihood on frames that were not trained on, ς² the smallest that keeps
  the matrix well conditioned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from blipcalc.core.contracts import Draws
from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.posteriors.laplace import log_likelihood, maximum_evidence
from blipcalc.posteriors.stored import refuse_more, refuse_noise

#: names of posteriors over the last layers
LAST_LAYER = ("laplace", "llpr", "pops")
#: ς² of LLPR, relative to the mean eigenvalue of FᵀF
REGULARISATION = 1e-10


def last_weights(network: nn.Module) -> dict[str, Tensor]:
    """{parameter: value} of the last layers; raises :class:`ConfigurationError` for a network that names none."""
    names = {f"{layer}.{kind}" for layer in network.last_layers() for kind in ("weight", "bias")}
    found = {name: value.detach().cpu().double() for name, value in network.named_parameters() if name in names}
    if not found:
        raise ConfigurationError(
            f"{type(network).__name__} names no last layers, in whose weights its energy is linear"
        )
    return found


def flat(weights: Mapping[str, Tensor]) -> Tensor:
    """(P,) the weights of the energy: the first row of every weight, the first entry of every bias."""
    return torch.cat([value[0].reshape(-1) for value in weights.values()])


def with_rows(weights: Mapping[str, Tensor], rows: Tensor) -> Draws:
    """K networks whose weights of the energy are the rows (K, P); what belongs to other outputs stays."""
    overrides, at = {}, 0
    for name, value in weights.items():
        size = value[0].numel()
        stacked = value.expand(len(rows), *value.shape).clone()
        stacked[:, 0] = rows[:, at : at + size].reshape(len(rows), *value.shape[1:])
        overrides[name], at = stacked, at + size
    return Draws(len(rows), overrides)


@dataclass(frozen=True)
class LastLayerPosterior:
    """N(ŵ, L Lᵀ) over the weights of the energy in the last layers.

    weights : {parameter: value} of the last layers at the mode, float64
    factor : L (P, P), float64
    name : of the method that it comes from, ``laplace`` or ``llpr``
    """

    weights: Mapping[str, Tensor]
    factor: Tensor
    name: str
    is_random: ClassVar[bool] = True

    def numbers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The standard normal numbers (P,) behind one draw, float64."""
        return {"weights": torch.randn(len(self.factor), generator=generator, dtype=torch.float64)}

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """K independent draws; draw k is the same whatever K is."""
        if n < 1:
            raise DrawsError(f"expected at least one draw, got n={n}")
        # one by one: the last digits of a product of matrices depend on the number of its rows
        noise = torch.stack([self.factor @ self.numbers(generator)["weights"] for _ in range(n)])
        return with_rows(self.weights, flat(self.weights) + noise)

    def centre(self) -> Draws:
        """The trained network."""
        return Draws(1)

    @property
    def members(self) -> Mapping[str, Tensor]:
        """None: it is one network."""
        return {}

    def random_numbers(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Those behind n draws."""
        drawn = [self.numbers(generator) for _ in range(n)]
        return {f"{k}/{name}": value for k, draw in enumerate(drawn) for name, value in draw.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps beside the network."""
        return {"factor": self.factor}

    @classmethod
    def restore(
        cls, name: str, network: nn.Module, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> Self:
        """From a network and :meth:`tensors`; raises :class:`DrawsError` where they do not fit."""
        refuse_noise(name, network)
        refuse_more(name, members)
        weights = last_weights(network)
        n = len(flat(weights))
        found = {key: tuple(value.shape) for key, value in tensors.items()}
        if found != {"factor": (n, n)}:
            raise DrawsError(f"expected a factor of shape ({n}, {n}), got {found}")
        return cls(weights, tensors["factor"].double(), name)


@dataclass(frozen=True)
class Gram:
    """What one pass over the data leaves: sums over S energies and 3N force components.

    energy, forces : (P, P) Σ φφᵀ eV² and Σ JᵀJ (eV/Å)², per squared unit of weight
    energy_sse, forces_sse : squared residuals of the network, eV² and (eV/Å)²
    n_energy, n_forces : how many
    """

    energy: Tensor
    forces: Tensor
    energy_sse: float
    forces_sse: float
    n_energy: int
    n_forces: int

    def precision(self, noise_energy: Tensor, noise_forces: Tensor, prior: Tensor) -> Tensor:
        """Σ_w⁻¹ for σ_E (eV), σ_F (eV/Å) and τ."""
        identity = torch.eye(len(self.energy), dtype=self.energy.dtype)
        return self.energy / noise_energy**2 + self.forces / noise_forces**2 + prior * identity

    def log_evidence(self, weights: Tensor, noise_energy: Tensor, noise_forces: Tensor, prior: Tensor) -> Tensor:
        """Logarithm of the marginal likelihood of the labels, with all constants."""
        total = log_likelihood(
            (self.energy_sse, self.forces_sse), (self.n_energy, self.n_forces), (noise_energy, noise_forces)
        )
        total = total - 0.5 * prior * weights.square().sum() + 0.5 * len(weights) * prior.log()
        return total - 0.5 * torch.logdet(self.precision(noise_energy, noise_forces, prior))


def laplace(weights: Mapping[str, Tensor], gram: Gram) -> tuple[LastLayerPosterior, dict[str, Any]]:
    """The Laplace posterior at the maximum of the marginal likelihood, and the σ_E, σ_F and τ found there."""
    mode = flat(weights)
    start = (
        math.sqrt(gram.energy_sse / gram.n_energy),
        math.sqrt(gram.forces_sse / gram.n_forces),
        len(mode) / float(mode.square().sum()),
    )
    found = maximum_evidence(lambda *values: gram.log_evidence(mode, *values), start)
    values = (torch.tensor(found[k], dtype=torch.float64) for k in ("noise_energy", "noise_forces", "prior_precision"))
    return LastLayerPosterior(weights, _inverse_root(gram.precision(*values)), "laplace"), found


def llpr(weights: Mapping[str, Tensor], gram: Gram) -> LastLayerPosterior:
    """The LLPR posterior for α = 1; see :func:`rescaled`."""
    scaled = gram.energy * (gram.n_energy / gram.energy_sse) + gram.forces * (gram.n_forces / gram.forces_sse)
    regular = REGULARISATION * scaled.diagonal().mean() * torch.eye(len(scaled), dtype=scaled.dtype)
    return LastLayerPosterior(weights, _inverse_root(scaled + regular), "llpr")


def best_alpha(error: Tensor, variance: Tensor) -> float:
    """α of maximum likelihood for errors of Gaussian variances α² v: root mean r² / v.

    What cannot vary, such as the force on an atom without neighbours, says nothing.  raises : ConfigurationError where all is so
    """
    known = variance > 1e-12 * variance.max()
    if not known.any():
        raise ConfigurationError("no validation frame has forces that depend on the last layers; give others")
    return float((error[known].square() / variance[known]).mean()) ** 0.5


def rescaled(posterior: LastLayerPosterior, alpha: float) -> LastLayerPosterior:
    """The posterior with α² times the variance."""
    return LastLayerPosterior(posterior.weights, alpha * posterior.factor, posterior.name)


def _inverse_root(precision: Tensor) -> Tensor:
    """L with L Lᵀ = precision⁻¹; raises :class:`ConfigurationError` for a singular one."""
    lower, failed = torch.linalg.cholesky_ex(precision)
    if failed:
        raise ConfigurationError(
            f"the curvature of {len(precision)} last weights is singular: are the data fewer than a few structures?"
        )
    return torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False).T.contiguous()
