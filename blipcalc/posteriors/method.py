"""What a method declares: all that training, model file and command line know of it.

A method is a class that derives from :class:`PosteriorMethod` and is registered by its name in
:data:`~blipcalc.registries.POSTERIORS`; ``blipcalc train --help`` shows the first line of its docstring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from blipcalc.core.contracts import Network, Posterior
from blipcalc.core.graph import Graph
from blipcalc.posteriors.stored import StoredPosterior
from blipcalc.settings import Settings

#: labelled frames of a training: those that it learns from, and those that it is validated on
Part = Literal["train", "validation"]
#: residual of a trained network, in units of the label scale, that λ of an online fit takes for granted
RESIDUAL = 0.02


class OnlineFit(Protocol):
    """A posterior that is made while weights are trained; as it stands: Adam alone, and no posterior.

    clips : whether the norm of the gradients is clipped
    counts_epochs : whether more epochs than were planned would change what was done in those before
    """

    clips: ClassVar[bool] = True
    counts_epochs: ClassVar[bool] = False

    def optimizer(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        """The optimiser of groups of parameters, each with a ``factor`` on the learning rate."""
        return torch.optim.Adam([dict(group) for group in groups], lr=learning_rate, foreach=True)

    def step_weights(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        """The weights at which a step takes its gradient, leaves."""
        return parameters

    def rate(self, epoch: int, epochs: int) -> float | None:
        """Constant learning rate in an epoch (from 0) as a fraction of the peak; None: that of the schedule."""
        return None

    def end_epoch(self, epoch: int, epochs: int, parameters: Mapping[str, Tensor]) -> None:
        """Take note of the weights that an epoch (from 1) ends with."""
        return

    def posterior(self, parameters: Mapping[str, Tensor]) -> tuple[StoredPosterior, Mapping[str, Tensor]] | None:
        """The posterior that the training ended in and the weights at its centre; None without one."""
        return None

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint keeps, beside the state of the optimiser."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        return


class Adam(OnlineFit):
    """No posterior: the trained weights are all that is wanted."""


class PosteriorMethod(Protocol):
    """One way to a posterior.

    name : under which it is registered
    Config : its settings, ``model.posterior_settings`` of a training
    is_several : it takes several networks, each trained on its own
    is_random : its draws differ
    has_centre : one network, or the few of a mixture, stands in the middle of its draws
    has_noise : the layers of its networks carry noise, which the stage ``noise`` fits
    is_online : it is made while weights are trained, see :meth:`online`
    reads : labelled frames that :meth:`fit` reads, after training
    """

    name: ClassVar[str]
    Config: ClassVar[type[Settings]] = Settings
    is_several: ClassVar[bool] = False
    is_random: ClassVar[bool] = True
    has_centre: ClassVar[bool] = True
    has_noise: ClassVar[bool] = False
    is_online: ClassVar[bool] = False
    reads: ClassVar[tuple[Part, ...]] = ()
    settings: Settings

    def __init__(self, settings: Settings | Mapping[str, Any] | None = None) -> None:
        self.settings = self.Config.of(settings)

    def __repr__(self) -> str:
        return f"{self.name}({self.settings!r})"

    def check(self, epochs: int, patience: int) -> None:
        """Refuse a training of so many epochs that could not make it, with :class:`ConfigurationError`."""
        return

    def network(self, trained: Network) -> Network:
        """The network that the posterior is of, from one without noise."""
        return trained

    def noise(self, network: Network) -> Posterior | None:
        """What gives the draws of every training step; None: there is no noise."""
        return None

    def online(self, ess: float) -> OnlineFit:
        """A fit that goes along with the training of one network.

        ess : λ, the weight of the mean loss that makes it the log-likelihood of all labels
        """
        return Adam()

    def fit(
        self,
        network: Network,
        members: Mapping[str, Tensor],
        frames: Mapping[Part, Sequence[Graph]],
        device: str = "cpu",
    ) -> tuple[StoredPosterior, dict[str, Any] | None]:
        """The posterior of trained networks, and the figures of its fit.

        members : {parameter: (M, *shape)} of several networks; empty for one
        frames : labelled graphs of the parts that it :attr:`reads`
        """
        return self.restore(network, members, {}), None

    def restore(
        self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> StoredPosterior:
        """The posterior from the network and the tensors of a file.

        raises : DrawsError where they do not fit
        """
        ...
