"""Point estimate: one network without error bars, the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blipcalc.core.contracts import Draws, Network
from blipcalc.errors import DrawsError
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.posteriors.stored import OneNetwork, refuse_more, refuse_noise


@dataclass(frozen=True)
class PointPosterior(OneNetwork):
    """Point estimate: all probability at the weights of the model."""

    name: ClassVar[str] = "point"
    is_random: ClassVar[bool] = False
    most_draws: ClassVar[int | None] = 1

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """Return the only draw; more than one is refused, since K equal draws would report no uncertainty."""
        if n != 1:
            raise DrawsError(
                f"a point estimate has one network, so n=1; got n={n}. Train a BLIP or an ensemble for more"
            )
        return Draws(1)

    def numbers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return no random numbers: the only draw is the network."""
        return {}


class Point(PosteriorMethod):
    """One trained network, without error bars."""

    name = "point"
    is_random = False
    has_centre = False

    def restore(self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> PointPosterior:
        """Restore the posterior from a network alone."""
        refuse_noise(self.name, network)
        refuse_more(self.name, members, tensors)
        return PointPosterior()
