"""Interface of posteriors that a model file can keep, and a base class of those over one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from blipcalc.core.contracts import Draws, HasSlots, Network, Posterior
from blipcalc.errors import DrawsError

#: K where a user gives none
USUAL_DRAWS = 16


class StoredPosterior(Protocol):
    """A posterior that a model file can keep, in addition to :class:`~blipcalc.core.contracts.Posterior`.

    name : of its method in :data:`~blipcalc.registries.POSTERIORS`
    is_random : whether draws differ
    most_draws : largest number of draws; None: any number
    members : {parameter: (M, *shape)} of M networks; empty for one
    """

    if TYPE_CHECKING:  # read-only: a field, a property or a class variable will do

        @property
        def name(self) -> str:
            """Name of the method."""
            ...

        @property
        def is_random(self) -> bool:
            """Whether draws differ."""
            ...

        @property
        def most_draws(self) -> int | None:
            """Largest number of draws; None for any number."""
            ...

        @property
        def members(self) -> Mapping[str, Tensor]:
            """Stacked weights of the members, (M, *shape) each."""
            ...

    else:  # a dataclass would use a property as the default of its field
        name: str
        is_random: bool
        most_draws: int | None
        members: Mapping[str, Tensor]

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """Return K draws, see :class:`~blipcalc.core.contracts.Posterior`."""
        ...

    def centre(self) -> Draws:
        """Return the network at the mean weights, see :class:`~blipcalc.core.contracts.Posterior`."""
        ...

    def with_members(self, members: Mapping[str, Tensor]) -> Self:
        """Return the posterior with other members; unchanged for one network."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors of the posterior, beside those of the network and its members."""
        ...

    def random_numbers(self, n: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the random numbers of n draws, which reveal a changed random generator to a file; empty for none.

        The draws themselves would not do: last digits of matrix products differ between machines.
        """
        ...


@runtime_checkable
class HasNoise(StoredPosterior, Protocol):
    """A posterior over networks with weight noise in their layers.

    noise : posterior over the weight noise, the same for all networks
    """

    if TYPE_CHECKING:

        @property
        def noise(self) -> Posterior:
            """Posterior over the weight noise of the layers."""
            ...

    else:
        noise: Posterior


class OneNetwork(StoredPosterior, Protocol):
    """Base of the posteriors over the weights of one network: no members, any number of draws."""

    is_random: ClassVar[bool] = True
    most_draws: ClassVar[int | None] = None

    def numbers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the random numbers of one draw, float64."""
        ...

    def centre(self) -> Draws:
        """Return the network as it is in the file."""
        return Draws(1)

    @property
    def members(self) -> Mapping[str, Tensor]:
        """Empty, since there is one network."""
        return {}

    def with_members(self, members: Mapping[str, Tensor]) -> Self:
        """Return this posterior, which has no members."""
        return self

    def tensors(self) -> Mapping[str, Tensor]:
        """Return no tensors: the network is all."""
        return {}

    def random_numbers(self, n: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the random numbers of n draws, named ``<draw>/<name>``."""
        drawn = [self.numbers(generator) for _ in range(n)]
        return {f"{k}/{name}": value for k, draw in enumerate(drawn) for name, value in draw.items()}


def n_networks(posterior: StoredPosterior) -> int:
    """Return M, the number of networks of a posterior."""
    return next((len(value) for value in posterior.members.values()), 1)


def feasible_draws(posterior: StoredPosterior, n_draws: int = USUAL_DRAWS) -> int:
    """Return K, or the largest number of draws of the posterior, such as the members of an ensemble."""
    return n_draws if posterior.most_draws is None else min(n_draws, posterior.most_draws)


def refuse_none(n: int) -> None:
    """Raise :class:`DrawsError` for fewer than one draw."""
    if n < 1:
        raise DrawsError(f"expected at least one draw, got n={n}")


def refuse_more(name: str, *tensors: Mapping[str, Tensor]) -> None:
    """Raise :class:`DrawsError` for tensors that the posterior does not have."""
    if odd := sorted(key for of_kind in tensors for key in of_kind):
        raise DrawsError(f"a posterior {name!r} has no tensors {', '.join(odd[:4])}")


def refuse_noise(name: str, network: Network) -> None:
    """Raise :class:`DrawsError` for a network with weight noise that the posterior would leave out."""
    if isinstance(network, HasSlots):
        raise DrawsError(f"a posterior {name!r} has no noise for the layers of {type(network).__name__}")
