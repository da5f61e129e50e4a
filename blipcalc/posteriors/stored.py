"""What a posterior must do to be kept in a model file, under a name in :data:`~blipcalc.registries.POSTERIORS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from blipcalc.core.contracts import Draws, HasSlots
from blipcalc.errors import DrawsError


class StoredPosterior(Protocol):
    """A posterior that a model file keeps, beside :class:`~blipcalc.core.contracts.Posterior`.

    name : under which it is registered
    is_random : whether draws differ
    """

    name: str
    is_random: bool

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """See :class:`~blipcalc.core.contracts.Posterior`."""
        ...

    def centre(self) -> Draws:
        """See :class:`~blipcalc.core.contracts.Posterior`."""
        ...

    @property
    def members(self) -> Mapping[str, Tensor]:
        """{parameter: (M, *shape)} of M networks; empty for one."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Its own tensors, beside those of the network and its members."""
        ...

    def random_numbers(self, n: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """The random numbers behind n draws, by which a file notices that a generator gives others; empty for none.

        Not the draws: last digits of products of matrices differ between machines.
        """
        ...

    @classmethod
    def restore(
        cls, name: str, network: nn.Module, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> Self:
        """From the network and the tensors of a file; ``name`` as it was stored.

        raises : DrawsError where they do not fit
        """
        ...


def n_networks(posterior: StoredPosterior) -> int:
    """M, the networks that a posterior is made of."""
    return next((len(value) for value in posterior.members.values()), 1)


def refuse_more(name: str, *tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that a posterior does not have, with :class:`DrawsError`."""
    if odd := sorted(key for of_kind in tensors for key in of_kind):
        raise DrawsError(f"a posterior {name!r} has no tensors {', '.join(odd[:4])}")


def refuse_noise(name: str, network: nn.Module) -> None:
    """Refuse a network whose layers carry noise that a posterior would leave out, with :class:`DrawsError`."""
    if isinstance(network, HasSlots):
        raise DrawsError(f"a posterior {name!r} has no noise for the layers of {type(network).__name__}")
