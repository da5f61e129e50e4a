"""A Gaussian over all weights of a network: diagonal, or diagonal plus low rank.

    θ_k = θ̄ + s ⊙ z_k + Σ_r D_r y_kr,     z_k ~ N(0, 1), y_k ~ N(0, 1)

What SWAG and IVON end in; how they get s and D stands in their own files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from blipcalc.core.contracts import Draws
from blipcalc.errors import DrawsError

#: methods whose Gaussian belongs to the linearised network
LINEAR = ("laplace-all",)


@dataclass(frozen=True)
class GaussianPosterior:
    """N(θ̄, diag s² + D Dᵀ).

    name : of the method that it comes from
    mean : {parameter: θ̄}, the weights of the network; std : {parameter: s} of the same shapes
    deviations : {parameter: D (R, *shape)}, or empty for rank zero
    linear : it is right for the network linearised around θ̄ only, which is then what its draws are
    """

    name: str
    mean: Mapping[str, Tensor]
    std: Mapping[str, Tensor]
    deviations: Mapping[str, Tensor] = field(default_factory=dict)
    linear: bool = False
    is_random: ClassVar[bool] = True

    @property
    def rank(self) -> int:
        """R."""
        return next((len(value) for value in self.deviations.values()), 0)

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """K independent draws; draw k is the same whatever K is."""
        if n < 1:
            raise DrawsError(f"expected at least one draw, got n={n}")
        draws = [self._one(generator) for _ in range(n)]
        stacked = {name: torch.stack([draw[name] for draw in draws]) for name in self.mean}
        return Draws(n, stacked, self.linear)

    def _one(self, generator: torch.Generator) -> dict[str, Tensor]:
        shared = torch.randn(self.rank, generator=generator, dtype=torch.float64)
        draw = {}
        for name, mean in self.mean.items():
            own = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
            draw[name] = mean.double() + self.std[name].double() * own
            if self.rank:
                draw[name] += torch.tensordot(shared, self.deviations[name].double(), dims=1)
        return draw

    def centre(self) -> Draws:
        """The mean weights."""
        return Draws(1)

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps beside the network."""
        parts = {"std": self.std, "deviations": self.deviations}
        return {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}

    @classmethod
    def restore(cls, name: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> Self:
        """From a network and :meth:`tensors`; raises :class:`DrawsError` where they do not fit."""
        mean = {key: value.detach().cpu() for key, value in network.named_parameters()}
        parts: dict[str, dict[str, Tensor]] = {"std": {}, "deviations": {}}
        for key, value in tensors.items():
            part, _, parameter = key.partition("/")
            if part not in parts or parameter not in mean:
                raise DrawsError(f"a Gaussian over these weights has no tensor {key!r}")
            parts[part][parameter] = value
        ranks = {len(value) for value in parts["deviations"].values()}
        for part, leading, wanted in (("std", 0, set(mean)), ("deviations", 1, set(mean) if ranks else set())):
            wrong = [
                k
                for k, v in parts[part].items()
                if v.shape[leading:] != mean[k].shape or v.ndim != mean[k].ndim + leading
            ]
            if set(parts[part]) != wanted or wrong or len(ranks) > 1:
                raise DrawsError(f"{part} of {len(parts[part])} parameters do not fit the {len(mean)} of the network")
        return cls(name, mean, **parts, linear=name in LINEAR)
