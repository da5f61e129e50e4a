"""Base class of posterior methods: everything that training, model file and command line need to know of one.

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
from blipcalc.registries import POSTERIORS
from blipcalc.settings import Settings

#: parts of the labelled frames of a training
Part = Literal["train", "validation"]
#: assumed residual of a trained network, in units of the label scale, for λ of an online fit
RESIDUAL = 0.02


def with_noise() -> str:
    """Return the names of the methods with weight noise, for a message."""
    return " or ".join(repr(name) for name in POSTERIORS.names() if POSTERIORS[name].has_noise)


class OnlineFit(Protocol):
    """Fit of a posterior during the training of the weights; this base class uses Adam and makes no posterior.

    clips : whether the norm of the gradients is clipped
    counts_epochs : whether the fit in an epoch depends on the planned number of epochs
    """

    clips: ClassVar[bool] = True
    counts_epochs: ClassVar[bool] = False

    def optimizer(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        """Return the optimiser of groups of parameters, each with a ``factor`` on the learning rate."""
        return torch.optim.Adam([dict(group) for group in groups], lr=learning_rate, foreach=True)

    def step_weights(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the weights, as leaves, at which a step takes its gradient."""
        return parameters

    def rate(self, epoch: int, epochs: int) -> float | None:
        """Return the constant learning rate in an epoch (from 0) as a fraction of the peak; None for that of the schedule."""
        return None

    def end_epoch(self, epoch: int, epochs: int, parameters: Mapping[str, Tensor]) -> None:
        """Record the weights at the end of an epoch (from 1)."""
        return

    def posterior(self, parameters: Mapping[str, Tensor]) -> tuple[StoredPosterior, Mapping[str, Tensor]] | None:
        """Return the posterior at the end of the training and its mean weights; None without one."""
        return None

    def state(self) -> Mapping[str, Tensor]:
        """Return what a checkpoint keeps, beside the state of the optimiser."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state`."""
        return


class Adam(OnlineFit):
    """Training with Adam that makes no posterior."""


class PosteriorMethod(Protocol):
    """Base class of posterior methods.

    name : registered name
    Config : class of the settings, ``model.posterior_settings`` of a training
    is_several : whether it needs several networks, each trained alone
    is_random : whether draws differ
    has_centre : whether it has a network at the mean weights, or the few of a mixture, for the surface ``centre``
    has_noise : whether layers carry weight noise, which the stage ``noise`` fits
    is_online : whether it is fitted during training, see :meth:`online`
    reads : parts of the labelled frames that :meth:`fit` reads, after training
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
        """Raise :class:`ConfigurationError` for a number of epochs or a patience that cannot make the posterior."""
        return

    def network(self, trained: Network) -> Network:
        """Return the network of the posterior, made from one without weight noise."""
        return trained

    def noise(self, network: Network) -> Posterior | None:
        """Return the posterior that gives the draws of every training step; None without weight noise."""
        return None

    def online(self, ess: float) -> OnlineFit:
        """Return a fit that runs during the training of one network.

        ess : λ, the factor that turns the mean loss into the negative log-likelihood of all labels
        """
        return Adam()

    def fit(
        self,
        network: Network,
        members: Mapping[str, Tensor],
        frames: Mapping[Part, Sequence[Graph]],
        device: str = "cpu",
    ) -> tuple[StoredPosterior, dict[str, Any] | None]:
        """Return the posterior of trained networks, and the figures of its fit.

        members : {parameter: (M, *shape)} of several networks; empty for one
        frames : labelled graphs of the parts that it :attr:`reads`
        """
        return self.restore(network, members, {}), None

    def restore(
        self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> StoredPosterior:
        """Restore the posterior from the network and the tensors of a file.

        raises : DrawsError where the tensors do not fit
        """
        ...
