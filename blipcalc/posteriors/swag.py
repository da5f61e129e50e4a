"""SWAG: a Gaussian from the weights along a training at a constant learning rate.

Of snapshots t = 1 … T, with θ̄ their mean,

    Σ_diag = mean θ² - θ̄²,     D̂ = the last R of θ_t - θ̄_t
    θ = θ̄ + Σ_diag^½ z / √2 + D̂ y / √(2 (R - 1))

Source: Maddox et al. 2019 (arXiv 1902.02476), algorithm 1 and equation 1; the ½ applies to both parts, as there (the published
code omits it by default).  θ̄_t is the running mean at the time of the snapshot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from pydantic import Field
from torch import Tensor

from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.posteriors.gaussian import GaussianMethod, GaussianPosterior
from blipcalc.posteriors.method import OnlineFit
from blipcalc.settings import Settings

#: smallest number of snapshots for a Gaussian
LEAST = 3


class SwagConfig(Settings):
    """Settings of the snapshots and of the rank."""

    start: float = Field(default=0.6, ge=0, lt=1, description="fraction of all epochs after which snapshots are taken")
    every: int = Field(default=1, ge=1, description="epochs between snapshots")
    rank: int = Field(default=20, ge=2, description="R, directions of the low-rank part")
    rate: float = Field(
        default=0.2,
        gt=0,
        description="constant learning rate while they are taken, as a fraction of the peak: a Gaussian takes a walk",
    )

    def is_snapshot(self, epoch: int, epochs: int) -> bool:
        """Return whether the weights at the end of an epoch (from 1) are a snapshot."""
        return epoch > self.start * epochs and (epochs - epoch) % self.every == 0

    def n_snapshots(self, epochs: int) -> int:
        """Return the number of snapshots of a training."""
        return sum(self.is_snapshot(epoch, epochs) for epoch in range(1, epochs + 1))


class SwagMoments(OnlineFit):
    """Running moments of the snapshots, float64 on the CPU."""

    counts_epochs = True  # snapshots are counted from the end

    def __init__(self, config: SwagConfig) -> None:
        self.config, self.count = config, 0
        self.mean: dict[str, Tensor] = {}
        self.square: dict[str, Tensor] = {}
        self.deviations: dict[str, Tensor] = {}

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Add a snapshot."""
        self.count += 1
        for name, value in weights.items():
            x = value.detach().cpu().double()
            if self.count == 1:
                self.mean[name], self.square[name] = x.clone(), torch.zeros_like(x)
                self.deviations[name] = x.new_zeros(0, *x.shape)
                continue
            before = x - self.mean[name]
            self.mean[name] = self.mean[name] + before / self.count
            # sums of squared deviations (Welford 1962) avoid the cancellation in mean θ² - θ̄²
            self.square[name] = self.square[name] + before * (x - self.mean[name])
            kept = self.deviations[name][-(self.config.rank - 1) :]
            self.deviations[name] = torch.cat([kept, (x - self.mean[name])[None]])

    def rate(self, epoch: int, epochs: int) -> float | None:
        """Return the constant learning rate, from the first epoch with snapshots on."""
        return self.config.rate if epoch >= self.config.start * epochs else None

    def end_epoch(self, epoch: int, epochs: int, parameters: Mapping[str, Tensor]) -> None:
        """Add a snapshot where the epoch has one."""
        if self.config.is_snapshot(epoch, epochs):
            self.add(parameters)

    def posterior(self, parameters: Mapping[str, Tensor]) -> tuple[GaussianPosterior, Mapping[str, Tensor]]:
        """Return the Gaussian around the mean of the snapshots, and that mean.

        Tensors are in the order of the parameters, which a checkpoint does not keep.
        """
        found = self.gaussian(next(iter(parameters.values())).dtype, parameters)
        return found, found.mean

    def gaussian(self, dtype: torch.dtype = torch.float64, order: Iterable[str] = ()) -> GaussianPosterior:
        """Return the Gaussian, in the dtype of the weights; raises :class:`DrawsError` for fewer than three snapshots.

        order : names of the parameters in the order of the network; draws depend on it
        """
        if self.count < LEAST:
            raise DrawsError(
                f"SWAG took {self.count} snapshots and needs {LEAST} or more; give more epochs, an earlier start or a smaller "
                "every"
            )
        std = {name: (value / self.count / 2).sqrt() for name, value in self.square.items()}
        rank = len(next(iter(self.deviations.values())))
        deviations = {name: value / math.sqrt(2 * (rank - 1)) for name, value in self.deviations.items()}
        names = list(order) or list(self.mean)
        mean, std, deviations = (
            {name: part[name].to(dtype) for name in names} for part in (self.mean, std, deviations)
        )
        return GaussianPosterior("swag", mean, std, deviations)

    def state(self) -> dict[str, Tensor]:
        """Return the moments for a checkpoint; empty before the first snapshot."""
        if not self.count:
            return {}
        parts = {"mean": self.mean, "square": self.square, "deviations": self.deviations}
        found = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
        return {"count": torch.tensor(self.count), **found}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state`."""
        self.count = int(state.get("count", 0))
        for key, value in state.items():
            part, _, name = key.partition("/")
            if name:
                getattr(self, part)[name] = value


class Swag(GaussianMethod):
    """A Gaussian over all weights, from snapshots of the weights during training at a constant learning rate."""

    name = "swag"
    Config = SwagConfig
    settings: SwagConfig
    is_online = True

    def check(self, epochs: int, patience: int) -> None:
        """Raise :class:`ConfigurationError` for a training with too few snapshots, or with patience."""
        n = self.settings.n_snapshots(epochs)
        if n < LEAST or patience:
            raise ConfigurationError(
                f"SWAG would take {n} snapshots in {epochs} epochs and needs {LEAST} or more, to the end of them; give more "
                "epochs, an earlier start or a smaller every (--set model.posterior_settings.start=0.3), and no patience"
            )

    def online(self, ess: float) -> SwagMoments:
        """Return the moments of the snapshots, as a fit during training."""
        return SwagMoments(self.settings)
