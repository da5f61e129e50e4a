"""Gaussian over all weights of a network: diagonal, in the axes of the weights or in rotated ones, or diagonal plus low rank.

    θ_k = θ̄ + U (s ⊙ z_k) Vᵀ + Σ_r D_r y_kr,     z_k ~ N(0, 1), y_k ~ N(0, 1)

SWAG, IVON and Laplace over all weights give such a Gaussian; their own files derive s, D, U and V.  The orthogonal U and V rotate
rows and columns of every weight matrix (:func:`stack_shape`); without them the axes are those of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from blipcalc.core.contracts import Draws, Network
from blipcalc.errors import DrawsError
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.posteriors.stored import OneNetwork, refuse_more, refuse_noise, refuse_none


def stack_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape (B, m, n) of a tensor as B matrices: a vector is one row, further axes form a stack of the last two."""
    rows, columns = (1, 1, *shape)[-2:]
    return math.prod(shape[:-2]), rows, columns


@dataclass(frozen=True)
class GaussianPosterior(OneNetwork):
    """Gaussian N(θ̄, (U ⊗ V) diag s² (U ⊗ V)ᵀ + D Dᵀ), with matrices as vectors of their rows.

    name : of the method
    mean : {parameter: θ̄}, the weights of the network; std : {parameter: s} of the same shapes
    deviations : {parameter: D (R, *shape)}, or empty for rank zero
    linear : whether it holds only for the network linearised around θ̄; draws are then draws of that network
    left, right : {parameter: U (B, m, m)} and {parameter: V (B, n, n)} for B matrices of m rows and n columns, or empty
    """

    name: str
    mean: Mapping[str, Tensor]
    std: Mapping[str, Tensor]
    deviations: Mapping[str, Tensor] = field(default_factory=dict)
    linear: bool = False
    left: Mapping[str, Tensor] = field(default_factory=dict)
    right: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Rank R of the low-rank part."""
        return next((len(value) for value in self.deviations.values()), 0)

    def numbers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the standard normal numbers of one draw, float64: y (R,) under the empty name, and z of every parameter."""
        shared = torch.randn(self.rank, generator=generator, dtype=torch.float64)
        own = {k: torch.randn(v.shape, generator=generator, dtype=torch.float64) for k, v in self.mean.items()}
        return {"": shared} | own

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """Return K independent draws; draw k does not depend on K."""
        refuse_none(n)
        draws = [self._one(generator) for _ in range(n)]
        stacked = {name: torch.stack([draw[name] for draw in draws]) for name in self.mean}
        return Draws(n, stacked, self.linear)

    def _one(self, generator: torch.Generator) -> dict[str, Tensor]:
        normals, draw = self.numbers(generator), {}
        for name, mean in self.mean.items():
            away = self.std[name].double() * normals[name]
            if self.left:
                away = away.reshape(stack_shape(mean.shape))
                away = (self.left[name].double() @ away @ self.right[name].double().mT).reshape(mean.shape)
            draw[name] = mean.double() + away
            if self.rank:
                draw[name] += torch.tensordot(normals[""], self.deviations[name].double(), dims=1)
        return draw

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a file keeps beside the network."""
        parts = {"std": self.std, "deviations": self.deviations, "left": self.left, "right": self.right}
        return {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}


class GaussianMethod(PosteriorMethod, Protocol):
    """Base of the methods that give a Gaussian over all weights.

    is_linear : whether the Gaussian holds for the linearised network
    is_turned : whether the Gaussian has rotated axes
    """

    is_linear: ClassVar[bool] = False
    is_turned: ClassVar[bool] = False

    def restore(
        self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> GaussianPosterior:
        """Restore the posterior from a network and the tensors of a Gaussian over its weights."""
        refuse_noise(self.name, network)
        refuse_more(self.name, members)
        mean = {key: value.detach().cpu() for key, value in network.named_parameters()}
        parts: dict[str, dict[str, Tensor]] = {"std": {}, "deviations": {}, "left": {}, "right": {}}
        for key, value in tensors.items():
            part, _, parameter = key.partition("/")
            if part not in parts or parameter not in mean:
                raise DrawsError(f"a Gaussian over these weights has no tensor {key!r}")
            parts[part][parameter] = value
        rank = next((value.shape[:1] for value in parts["deviations"].values()), None)
        stacks = {key: stack_shape(value.shape) for key, value in mean.items()} if self.is_turned else {}
        expected = {
            "std": {key: tuple(value.shape) for key, value in mean.items()},
            "deviations": {} if rank is None else {key: (*rank, *value.shape) for key, value in mean.items()},
            "left": {key: (b, m, m) for key, (b, m, _) in stacks.items()},
            "right": {key: (b, n, n) for key, (b, _, n) in stacks.items()},
        }
        for part, shapes in expected.items():
            if {key: tuple(value.shape) for key, value in parts[part].items()} != shapes:
                raise DrawsError(f"{part} of {len(parts[part])} parameters do not fit the {len(mean)} of the network")
        return GaussianPosterior(self.name, mean, **parts, linear=self.is_linear)
