"""What a posterior must do to be kept in a model file, and what those of one network have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from blipcalc.core.contracts import Draws, HasSlots, Network, Posterior
from blipcalc.errors import DrawsError


class StoredPosterior(Protocol):
    """A posterior that a model file keeps, beside :class:`~blipcalc.core.contracts.Posterior`.

    name : of its method in :data:`~blipcalc.registries.POSTERIORS`
    is_random : whether draws differ
    most_draws : draws that it can give; None: any number
    members : {parameter: (M, *shape)} of M networks; empty for one
    """

    if TYPE_CHECKING:  # to be read: a field, a property or a class variable will do

        @property
        def name(self) -> str:
            """Of its method."""
            ...

        @property
        def is_random(self) -> bool:
            """Whether draws differ."""
            ...

        @property
        def most_draws(self) -> int | None:
            """K at most."""
            ...

        @property
        def members(self) -> Mapping[str, Tensor]:
            """(M, *shape) each."""
            ...

    else:  # a dataclass would take a property for the default of its field
        name: str
        is_random: bool
        most_draws: int | None
        members: Mapping[str, Tensor]

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """See :class:`~blipcalc.core.contracts.Posterior`."""
        ...

    def centre(self) -> Draws:
        """See :class:`~blipcalc.core.contracts.Posterior`."""
        ...

    def with_members(self, members: Mapping[str, Tensor]) -> Self:
        """The same with other members; itself where it is one network."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Its own tensors, beside those of the network and its members."""
        ...

    def random_numbers(self, n: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """The random numbers behind n draws, by which a file notices that a generator gives others; empty for none.

        Not the draws: last digits of products of matrices differ between machines.
        """
        ...


@runtime_checkable
class HasNoise(StoredPosterior, Protocol):
    """A posterior whose networks carry noise in their layers.

    noise : of the layers, the same for all networks
    """

    if TYPE_CHECKING:

        @property
        def noise(self) -> Posterior:
            """Of the layers."""
            ...

    else:
        noise: Posterior


class OneNetwork(StoredPosterior, Protocol):
    """Base of the posteriors over the weights of one network: no members, any number of draws."""

    is_random: ClassVar[bool] = True
    most_draws: ClassVar[int | None] = None

    def numbers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The random numbers behind one draw, float64."""
        ...

    def centre(self) -> Draws:
        """The network as it is in the file."""
        return Draws(1)

    @property
    def members(self) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def with_members(self, members: Mapping[str, Tensor]) -> Self:
        """Itself."""
        return self

    def tensors(self) -> Mapping[str, Tensor]:
        """None beside the network."""
        return {}

    def random_numbers(self, n: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Those of n draws, ``<draw>/<name>``."""
        drawn = [self.numbers(generator) for _ in range(n)]
        return {f"{k}/{name}": value for k, draw in enumerate(drawn) for name, value in draw.items()}


def n_networks(posterior: StoredPosterior) -> int:
    """M, the networks that a posterior is made of."""
    return next((len(value) for value in posterior.members.values()), 1)


def refuse_none(n: int) -> None:
    """Refuse a number of draws below one, with :class:`DrawsError`."""
    if n < 1:
        raise DrawsError(f"expected at least one draw, got n={n}")


def refuse_more(name: str, *tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that a posterior does not have, with :class:`DrawsError`."""
    if odd := sorted(key for of_kind in tensors for key in of_kind):
        raise DrawsError(f"a posterior {name!r} has no tensors {', '.join(odd[:4])}")


def refuse_noise(name: str, network: Network) -> None:
    """Refuse a network whose layers carry noise that a posterior would leave out, with :class:`DrawsError`."""
    if isinstance(network, HasSlots):
        raise DrawsError(f"a posterior {name!r} has no noise for the layers of {type(network).__name__}")
