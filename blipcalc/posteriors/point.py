"""The point posterior: one network, no spread; the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from blipcalc.core.contracts import Draws
from blipcalc.errors import DrawsError
from blipcalc.posteriors.stored import refuse_more, refuse_noise


@dataclass(frozen=True)
class PointPosterior:
    """All mass on the weights of the model."""

    name: ClassVar[str] = "point"
    is_random: ClassVar[bool] = False

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """The one draw there is; more than one is refused, since K equal draws would report no uncertainty."""
        if n != 1:
            raise DrawsError(
                f"a point estimate has one network, so n=1; got n={n}. Train a BLIP or an ensemble for more"
            )
        return Draws(1)

    def centre(self) -> Draws:
        """The network itself."""
        return Draws(1)

    @property
    def members(self) -> Mapping[str, Tensor]:
        """None: it is one network."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """None beside the network."""
        return {}

    def random_numbers(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """None."""
        return {}

    @classmethod
    def restore(
        cls, name: str, network: nn.Module, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> Self:
        """From a network alone; raises :class:`DrawsError` for more."""
        refuse_noise(name, network)
        refuse_more(name, members, tensors)
        return cls()
