"""How the weights of one network move: an optimiser, the average it leaves behind, the best of it, and a Gaussian around it.

    θ ← θ - step(∇),    θ̄ ← θ̄ + (1 - d)(θ - θ̄),    d = min(decay, (1 + t) / (10 + t))

Adam moves point networks, BLIPs and SWAG, which takes snapshots on its way; IVON is an optimiser of its own and takes its
gradients at sampled weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blipcalc.files.run_folder import State
from blipcalc.posteriors.gaussian import GaussianPosterior
from blipcalc.posteriors.ivon import Ivon, IvonConfig
from blipcalc.posteriors.swag import SwagConfig, SwagMoments
from blipcalc.training.config import TrainConfig
from blipcalc.training.schedules import learning_rate

#: parameters whose names contain this belong to the BLIP inference network and get their own learning rate
INFERENCE_PREFIX = "inference."


class Descent:
    """The moving weights of a training run.

    Parameters
    ----------
    parameters : {name: leaf}, moved in place
    config : settings of the training
    method : SWAG takes snapshots of the weights; IVON replaces Adam.  Both end in :attr:`gaussian`
    ess : of IVON, where its settings have none
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        config: TrainConfig,
        method: SwagConfig | IvonConfig | None,
        ess: float,
    ) -> None:
        self.parameters, self.config = dict(parameters), config
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.best = self.average
        self.step_count = 0
        self.swag = SwagMoments(method) if isinstance(method, SwagConfig) else None
        self.ivon: Ivon | None = None
        if isinstance(method, IvonConfig):
            self.ivon = Ivon(self._groups(method.rate), method, method.ess or ess)
        self.optimizer = self.ivon or torch.optim.Adam(self._groups(), lr=config.learning_rate, foreach=True)

    def _groups(self, factor: float = 1.0) -> list[dict[str, Any]]:
        """Parameters, with factors on the learning rate."""
        inference = [p for name, p in self.parameters.items() if INFERENCE_PREFIX in name]
        backbone = [p for name, p in self.parameters.items() if INFERENCE_PREFIX not in name]
        groups = [{"params": backbone, "factor": factor}]
        return groups + ([{"params": inference, "factor": factor * self.config.inference_rate}] if inference else [])

    def rate(self, epoch: int, total_steps: int) -> float:
        """The learning rate now."""
        c = self.config
        if self.swag is not None and epoch >= self.swag.config.start * c.epochs:
            return self.swag.config.rate * c.learning_rate
        return learning_rate(
            self.step_count, total_steps, peak=c.learning_rate, final=c.final_learning_rate, warmup=c.warmup_steps
        )

    def start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Begin a step: the weights to take the gradient at, leaves without one."""
        self.optimizer.zero_grad(set_to_none=True)
        return self.ivon.sample(self.parameters, generator) if self.ivon else self.parameters

    def collect(self, weights: Mapping[str, Tensor]) -> None:
        """Take the gradients that the weights of :meth:`start` hold for those of the parameters."""
        for name, parameter in self.parameters.items():
            parameter.grad = weights[name].grad

    def gradient_norm(self) -> Tensor:
        """Norm of the gradients, which are clipped; but for IVON, to which they are also a measure of curvature."""
        largest = float("inf") if self.ivon else self.config.clip_norm
        return torch.nn.utils.clip_grad_norm_(self.parameters.values(), largest)

    def apply(self, rate: float) -> None:
        """One step with the gradients that the parameters hold."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.step_count += 1
        # a short memory early on, so that the average does not carry the random start
        decay = min(self.config.ema_decay, (1 + self.step_count) / (10 + self.step_count))
        live = [p.detach() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), live, 1.0 - decay)

    def keep_best(self) -> None:
        """The average as it stands is the best so far."""
        self.best = {name: value.clone() for name, value in self.average.items()}

    def end_epoch(self, epoch: int) -> None:
        """Take a snapshot where SWAG wants one after this many epochs."""
        if self.swag is not None and self.swag.config.is_snapshot(epoch, self.config.epochs):
            self.swag.add(self.parameters)

    @property
    def gaussian(self) -> GaussianPosterior | None:
        """What SWAG or IVON ended in; None without them."""
        if self.swag is not None:
            return self.swag.posterior(next(iter(self.parameters.values())).dtype, self.parameters)
        return None if self.ivon is None else self.ivon.posterior(self.parameters)

    @property
    def result(self) -> dict[str, Tensor]:
        """The weights that were looked for: the mean of a Gaussian, else the best average."""
        gaussian = self.gaussian if self.step_count else None
        return self.best if gaussian is None else gaussian.mean

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put these weights in the place of the parameters."""
        for name, value in weights.items():
            self.parameters[name].copy_(value)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """All tensors of it, by kind, for a checkpoint."""
        adam = {
            f"{key}/{name}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        tensors = {"model": self.parameters, "ema": self.average, "best": self.best, "adam": adam}
        return tensors | ({"swag": self.swag.state()} if self.swag is not None and self.swag.count else {})

    def restore(self, state: State, step_count: int) -> None:
        """Go on from :meth:`tensors`."""
        self.step_count = step_count
        self.load(state.of("model"))
        # in the order of the parameters: a file keeps its tensors in another one
        where = {name: p.device for name, p in self.parameters.items()}
        self.average = {name: state.of("ema")[name].to(device) for name, device in where.items()}
        self.best = {name: state.of("best")[name].to(device) for name, device in where.items()}
        for key_name, value in state.of("adam").items():
            key, _, name = key_name.partition("/")
            self.optimizer.state[self.parameters[name]][key] = value.to("cpu" if key == "step" else where[name])
        if self.swag is not None and state.of("swag"):
            self.swag.load(state.of("swag"))
