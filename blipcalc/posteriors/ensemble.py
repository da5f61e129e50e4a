"""Deep ensembles and mixtures of BLIPs: a few independently trained networks.

Sources: Lakshminarayanan, Pritzel, Blundell 2017 (arXiv 1612.01474) for the ensemble.  A mixture of BLIPs draws over both
the members and the noise of each: noise around one mode barely reacts to a stretched bond, two modes do.
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
    """Stack the state dicts of M members of one architecture as {name: (M, *shape)}.

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
    """Return the members; raises :class:`DrawsError` where there are none, or further tensors."""
    refuse_more(name, tensors)
    if not members:
        raise DrawsError(f"a posterior {name!r} is made of two networks or more, got one")
    return members


@dataclass(frozen=True)
class EnsemblePosterior(StoredPosterior):
    """Posterior of M equally weighted networks.

    members : {parameter name: (M, *shape)}
    """

    members: Mapping[str, Tensor]
    name: ClassVar[str] = "ensemble"
    is_random: ClassVar[bool] = True

    @property
    def most_draws(self) -> int:
        """Largest number of draws, M."""
        return n_networks(self)

    def with_members(self, members: Mapping[str, Tensor]) -> Self:
        """Return the posterior with other networks."""
        return replace(self, members=members)

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """Return the first K members, in order; raises :class:`DrawsError` for more draws than members."""
        if not 1 <= n <= self.most_draws:
            raise DrawsError(f"the ensemble has {self.most_draws} members, so n_draws is at most that; got {n}")
        return Draws(n, {name: value[:n] for name, value in self.members.items()})

    def centre(self) -> Draws:
        """Raise :class:`DrawsError`: the mean of independently trained weights is no useful network."""
        raise DrawsError("an ensemble has no centre network; use surface='mean'")

    def tensors(self) -> dict[str, Tensor]:
        """Return no tensors: the members are all."""
        return {}

    def random_numbers(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return no random numbers: draws are the members in order."""
        return {}


class Ensemble(PosteriorMethod):
    """Several networks that differ in their initial weights and in the order of their data."""

    name = "ensemble"
    is_several = True
    has_centre = False

    def restore(
        self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> EnsemblePosterior:
        """Restore the posterior from members."""
        refuse_noise(self.name, network)
        return EnsemblePosterior(_networks(self.name, members, tensors))


@dataclass(frozen=True)
class MixturePosterior(StoredPosterior):
    """M BLIPs of equal weight, each with weight noise; draw k belongs to member k mod M.

    members : {parameter name: (M, *shape)}
    noise : weight noise of every member
    """

    members: Mapping[str, Tensor]
    noise: BlipPosterior
    name: ClassVar[str] = "mixture"
    is_random: ClassVar[bool] = True
    most_draws: ClassVar[int | None] = None

    def with_members(self, members: Mapping[str, Tensor]) -> Self:
        """Return the posterior with other networks and the same noise."""
        return replace(self, members=members)

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """Return K draws, spread evenly over the members."""
        noise = self.noise.draw(n, generator=generator)
        index = torch.arange(n) % n_networks(self)
        return Draws(n, {**{name: value[index] for name, value in self.members.items()}, **noise.overrides})

    def centre(self) -> Draws:
        """Return the M members without noise: their mean surface is conservative and costs M evaluations instead of K."""
        return Draws(n_networks(self), dict(self.members))

    def tensors(self) -> dict[str, Tensor]:
        """Return no tensors: the members are all."""
        return {}

    def random_numbers(self, n: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the noise of n draws."""
        return self.noise.random_numbers(n, generator)


class Mixture(Blip):
    """Several networks with weight noise in their layers."""

    name = "mixture"
    is_several = True

    def restore(
        self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> MixturePosterior:
        """Restore the posterior from a BLIP and its members."""
        return MixturePosterior(_networks(self.name, members, tensors), BlipPosterior.of(network))
