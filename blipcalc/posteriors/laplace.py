"""Laplace over all weights, with the Gauss-Newton matrix of energies and forces in a form that can be kept.

    G = σ_E⁻² Σ_E vec J vec Jᵀ + σ_F⁻² Σ_F vec J vec Jᵀ,     θ ~ N(θ̂, (G + τ 1)⁻¹)
    ln p(D) = ln p(D | θ̂) - τ ‖θ̂‖² / 2 + P/2 ln τ - ½ ln det (G + τ 1)

| symbol | variable |
|---|---|
| J, the derivative of one energy or force component by the P weights θ | ``jacobian``, of one tensor of weights |
| form of G | :class:`Structure`: its diagonal (:class:`Diagonal`), or :class:`~blipcalc.posteriors.kronecker.Kronecker` |

Its predictions are those of the *linearised* network, for which the Gauss-Newton matrix is the Hessian (Immer, Korzepa, Bauer
2021, arXiv 2008.08400); draws put into the network itself would leave the range where the quadratic form means anything.  The
mean of the linearised network is the trained one.

σ_E, σ_F and τ stand where the marginal likelihood has its maximum.  (Published as RACE-LA with the diagonal of energies alone,
and with the hyper-parameters left at their start, arXiv 2510.03046 and its code.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from blipcalc.posteriors.gaussian import GaussianPosterior
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
        "last", description="last: exact and full over the last layers; all: linearised"
    )
    structure: Literal["diagonal", "kronecker"] = Field(
        "diagonal",
        description="of weights=all: the diagonal of the Gauss-Newton matrix, or a Kronecker product for every matrix of weights",
    )

    @model_validator(mode="after")
    def _last_layers_are_full(self) -> Self:
        if self.weights == "last" and self.structure != "diagonal":
            raise ValueError(
                "weights='last' keeps the full matrix and has no other structure; give weights='all' with it"
            )
        return self


class Eigen(NamedTuple):
    """A block of G in its own axes.

    values : (B, m, n), or the shape of the weights: its eigenvalues
    left, right : (B, m, m) U and (B, n, n) V of the axes U ⊗ V; None where they are those of the weights
    """

    values: Tensor
    left: Tensor | None = None
    right: Tensor | None = None


class Structure(Protocol):
    """What is kept of a block of G, the one of a tensor of weights.

    name : of the posterior
    """

    name: str

    def sums(self, jacobian: Tensor) -> tuple[Tensor, ...]:
        """Sums over O outputs of their derivatives (O, *shape), to be added up over the data, float64."""
        ...

    def eigen(self, sums: tuple[Tensor, ...]) -> Eigen:
        """The block that stands for such sums."""
        ...


class Diagonal:
    """G_kk alone."""

    name: ClassVar[str] = "laplace-all"

    def sums(self, jacobian: Tensor) -> tuple[Tensor, ...]:
        """Squares."""
        return (jacobian.square().sum(dim=0),)

    def eigen(self, sums: tuple[Tensor, ...]) -> Eigen:
        """As they are."""
        return Eigen(sums[0])


@dataclass(frozen=True)
class Curvature:
    """What one pass over the data leaves: sums of products of derivatives by the weights, and squared residuals.

    structure : which sums
    energy, forces : {parameter: sums over energies} eV² and {parameter: sums over force components} (eV/Å)²
    sse, n : squared residuals (eV², (eV/Å)²), and numbers of energies and force components
    """

    structure: Structure
    energy: Mapping[str, tuple[Tensor, ...]]
    forces: Mapping[str, tuple[Tensor, ...]]
    sse: tuple[float, float]
    n: tuple[int, int]

    def block(self, name: str, noise_energy: Tensor | float, noise_forces: Tensor | float) -> Eigen:
        """The block of G of one parameter, for σ_E (eV) and σ_F (eV/Å)."""
        pairs = zip(self.energy[name], self.forces[name], strict=True)
        return self.structure.eigen(tuple(e / noise_energy**2 + f / noise_forces**2 for e, f in pairs))

    def log_evidence(
        self, mode: Mapping[str, Tensor], noise_energy: Tensor, noise_forces: Tensor, prior: Tensor
    ) -> Tensor:
        """Logarithm of the marginal likelihood of the labels, with all constants."""
        total = log_likelihood(self.sse, self.n, (noise_energy, noise_forces))
        for name, value in mode.items():
            precision = self.block(name, noise_energy, noise_forces).values + prior
            penalty = prior * value.double().square().sum()
            total = total - 0.5 * (penalty - value.numel() * prior.log() + precision.log().sum())
        return total

    def start(self, mode: Mapping[str, Tensor]) -> tuple[float, float, float]:
        """σ_E, σ_F and τ that the search begins at: of the residuals, and of the weights."""
        noise = (math.sqrt(s / n) for s, n in zip(self.sse, self.n, strict=True))
        norm = sum(float(value.double().square().sum()) for value in mode.values())
        return (*noise, sum(value.numel() for value in mode.values()) / norm)

    def laplace(self, mode: Mapping[str, Tensor]) -> tuple[GaussianPosterior, dict[str, float]]:
        """The posterior around the trained weights, and the σ_E, σ_F and τ it stands on."""
        found = maximum_evidence(partial(self.log_evidence, mode), self.start(mode))
        std, left, right = {}, {}, {}
        for name, value in mode.items():
            block = self.block(name, found["noise_energy"], found["noise_forces"])
            std[name] = (block.values + found["prior_precision"]).rsqrt().reshape(value.shape).to(value.dtype)
            # in the order of rows, as a file gives them back: products then have the same last digits
            for axes, turned in ((block.left, left), (block.right, right)):
                if axes is not None:
                    turned[name] = axes.to(value.dtype).contiguous()
        return GaussianPosterior(self.structure.name, dict(mode), std, linear=True, left=left, right=right), found
