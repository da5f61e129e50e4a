"""The point posterior: one network, no spread; the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from blipcalc.core.contracts import Draws
from blipcalc.errors import DrawsError


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
