"""Draws that are the weights at the end of the last epochs of a training, each as likely as another.

Source: Huang et al. 2017, "Snapshot ensembles: train 1, get M for free", arXiv 1704.00109, at a constant learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from blipcalc.core.contracts import Draws
from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.posteriors.method import OnlineFit, PosteriorMethod
from blipcalc.posteriors.stored import OneNetwork, refuse_more, refuse_noise, refuse_none
from blipcalc.settings import Settings


class SnapshotsConfig(Settings):
    """How many snapshots are kept."""

    kept: int = Field(8, ge=2, description="of the last epochs")
    rate: float = Field(0.2, gt=0, description="constant learning rate while they are taken, as a fraction of the peak")


@dataclass(frozen=True)
class SnapshotsPosterior(OneNetwork):
    """Uniform over R networks.

    weights : {parameter: (R, *shape)}
    """

    weights: Mapping[str, Tensor]
    name: ClassVar[str] = "snapshots"

    def numbers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Which of them a draw is."""
        return {"snapshot": torch.randint(0, len(next(iter(self.weights.values()))), (), generator=generator)}

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """K independent draws."""
        refuse_none(n)
        chosen = torch.stack([self.numbers(generator)["snapshot"] for _ in range(n)])
        return Draws(n, {name: value[chosen] for name, value in self.weights.items()})

    def tensors(self) -> dict[str, Tensor]:
        """All of them."""
        return dict(self.weights)


class Taking(OnlineFit):
    """The snapshots of a training."""

    counts_epochs = True

    def __init__(self, config: SnapshotsConfig) -> None:
        self.config, self.weights = config, {}

    def rate(self, epoch: int, epochs: int) -> float | None:
        """Constant at the end."""
        return self.config.rate if epoch >= epochs - self.config.kept else None

    def end_epoch(self, epoch: int, epochs: int, parameters: Mapping[str, Tensor]) -> None:
        """Take one."""
        if epoch <= epochs - self.config.kept:
            return
        for name, value in parameters.items():
            before = self.weights.get(name, value.new_zeros((0, *value.shape)).cpu())
            self.weights[name] = torch.cat([before, value.detach().cpu()[None]])

    def posterior(self, parameters: Mapping[str, Tensor]) -> tuple[SnapshotsPosterior, Mapping[str, Tensor]]:
        """All of them, and their mean."""
        ordered = {name: self.weights[name] for name in parameters}
        return SnapshotsPosterior(ordered), {name: value.mean(dim=0) for name, value in ordered.items()}

    def state(self) -> Mapping[str, Tensor]:
        """For a checkpoint."""
        return self.weights

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on."""
        self.weights = dict(state)


class Snapshots(PosteriorMethod):
    """The last networks that a training went through."""

    name = "snapshots"
    Config = SnapshotsConfig
    is_online = True

    def check(self, epochs: int, patience: int) -> None:
        """Refuse a training without enough epochs."""
        if epochs < self.settings.kept or patience:
            raise ConfigurationError(
                f"{self.settings.kept} snapshots take as many epochs and no patience, got {epochs}"
            )

    def online(self, ess: float) -> Taking:
        """Snapshots at the end of epochs."""
        return Taking(self.settings)

    def restore(
        self, network: nn.Module, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> SnapshotsPosterior:
        """From a network and the snapshots of its weights."""
        refuse_noise(self.name, network)
        refuse_more(self.name, members)
        expected = {name: tuple(value.shape) for name, value in network.named_parameters()}
        if {name: tuple(value.shape[1:]) for name, value in tensors.items()} != expected:
            raise DrawsError(f"expected snapshots of {len(expected)} parameters, got tensors that do not fit them")
        return SnapshotsPosterior({name: tensors[name] for name in expected})
