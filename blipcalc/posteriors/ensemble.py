"""Deep ensembles and mixtures of BLIPs: a few independently trained networks.

Sources: Lakshminarayanan, Pritzel, Blundell 2017 (arXiv 1612.01474) for the ensemble.  A mixture of BLIPs draws over both
the members and the noise of each: noise around one mode hardly sees a stretched bond, two modes do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from blipcalc.core.contracts import Draws, Network
from blipcalc.errors import DrawsError
from blipcalc.posteriors.blip import Blip, BlipPosterior
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.posteriors.stored import StoredPosterior, n_networks, refuse_more, refuse_noise


def stack_members(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """State dicts of M members of one architecture -> {name: (M, *shape)}.

    Raises :class:`DrawsError` where names or shapes differ between members.
    """
    first = {name: tuple(value.shape) for name, value in members[0].items()}
    for k, member in enumerate(members[1:], start=1):
        other = {name: tuple(value.shape) for name, value in member.items()}
        if other != first:
            different = sorted(set(first.items()) ^ set(other.items()))[:4]
            raise DrawsError(f"member {k} has another architecture than member 0: {different}")
    return {name: torch.stack([member[name].detach() for member in members]) for name in first}


def _networks(name: str, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The members; raises :class:`DrawsError` where there are none, or more than they."""
    refuse_more(name, tensors)
    if not members:
        raise DrawsError(f"a posterior {name!r} is made of two networks or more, got one")
    return members


@dataclass(frozen=True)
class EnsemblePosterior(StoredPosterior):
    """M equally weighted networks.

    members : {parameter name: (M, *shape)}
    """

    members: Mapping[str, Tensor]
    name: ClassVar[str] = "ensemble"
    is_random: ClassVar[bool] = True

    @property
    def most_draws(self) -> int:
        """M."""
        return n_networks(self)

    def with_members(self, members: Mapping[str, Tensor]) -> Self:
        """Other networks."""
        return replace(self, members=members)

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """The first K members, in order; an ensemble has no more networks than it has."""
        if not 1 <= n <= self.most_draws:
            raise DrawsError(f"the ensemble has {self.most_draws} members, so n_draws is at most that; got {n}")
        return Draws(n, {name: value[:n] for name, value in self.members.items()})

    def centre(self) -> Draws:
        """Refused: the mean of independently trained weights is no network."""
        raise DrawsError("an ensemble has no centre network; use surface='mean'")

    def tensors(self) -> dict[str, Tensor]:
        """None beside the members."""
        return {}

    def random_numbers(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """None: draws are the members in their order."""
        return {}


class Ensemble(PosteriorMethod):
    """Several networks that differ in their start and the order of their data."""

    name = "ensemble"
    is_several = True
    has_centre = False

    def restore(
        self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> EnsemblePosterior:
        """From members."""
        refuse_noise(self.name, network)
        return EnsemblePosterior(_networks(self.name, members, tensors))


@dataclass(frozen=True)
class MixturePosterior(StoredPosterior):
    """M BLIPs of equal weight, each with its noise; draw k is taken from member k mod M.

    members : {parameter name: (M, *shape)}
    noise : the noise that every member carries
    """

    members: Mapping[str, Tensor]
    noise: BlipPosterior
    name: ClassVar[str] = "mixture"
    is_random: ClassVar[bool] = True
    most_draws: ClassVar[int | None] = None

    def with_members(self, members: Mapping[str, Tensor]) -> Self:
        """Other networks with the same noise."""
        return replace(self, members=members)

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """K draws, spread evenly over the members."""
        noise = self.noise.draw(n, generator=generator)
        index = torch.arange(n) % n_networks(self)
        return Draws(n, {**{name: value[index] for name, value in self.members.items()}, **noise.overrides})

    def centre(self) -> Draws:
        """The M members without noise: their mean surface is conservative and costs M evaluations instead of K."""
        return Draws(n_networks(self), dict(self.members))

    def tensors(self) -> dict[str, Tensor]:
        """None beside the members."""
        return {}

    def random_numbers(self, n: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """The noise of n draws."""
        return self.noise.random_numbers(n, generator)


class Mixture(Blip):
    """Several networks with noise in their layers."""

    name = "mixture"
    is_several = True

    def restore(
        self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> MixturePosterior:
        """From a BLIP and its members."""
        return MixturePosterior(_networks(self.name, members, tensors), BlipPosterior.of(network))
