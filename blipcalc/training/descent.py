"""Optimisation of the weights of one network, with an average of the weights and an online posterior.

    θ ← θ - step(∇),    θ̄ ← θ̄ + (1 - d)(θ - θ̄),    d = min(decay, (1 + t) / (10 + t))

A posterior fitted during training (:class:`~blipcalc.posteriors.method.OnlineFit`) chooses the optimiser and the weights at which
gradients are taken, and records what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blipcalc.files.run_folder import State
from blipcalc.posteriors.method import OnlineFit
from blipcalc.posteriors.stored import StoredPosterior
from blipcalc.training.config import TrainConfig
from blipcalc.training.schedules import learning_rate

#: part of the names of parameters of the BLIP inference network, which has its own learning rate
INFERENCE_PREFIX = "inference."


class Descent:
    """Weights of a training run, with their optimiser and their average.

    Parameters
    ----------
    parameters : {name: leaf}, updated in place
    config : settings of the training
    online : fit of a posterior during training
    """

    def __init__(self, parameters: Mapping[str, Tensor], config: TrainConfig, online: OnlineFit) -> None:
        self.parameters, self.config, self.online = dict(parameters), config, online
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.best = self.average
        self.step_count = 0
        self.optimizer = online.optimizer(self._groups(), config.learning_rate)

    def _groups(self) -> list[dict[str, Any]]:
        """Return groups of parameters, with factors on the learning rate."""
        inference = [p for name, p in self.parameters.items() if INFERENCE_PREFIX in name]
        backbone = [p for name, p in self.parameters.items() if INFERENCE_PREFIX not in name]
        groups = [{"params": backbone, "factor": 1.0}]
        return groups + ([{"params": inference, "factor": self.config.inference_rate}] if inference else [])

    def rate(self, epoch: int, total_steps: int) -> float:
        """Return the current learning rate."""
        c = self.config
        constant = self.online.rate(epoch, c.epochs)
        if constant is not None:
            return constant * c.learning_rate
        return learning_rate(
            self.step_count, total_steps, peak=c.learning_rate, final=c.final_learning_rate, warmup=c.warmup_steps
        )

    def start(self, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Begin a step: return the weights at which to take the gradient, leaves without one."""
        self.optimizer.zero_grad(set_to_none=True)
        return self.online.step_weights(self.parameters, generator)

    def collect(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the gradients of the weights of :meth:`start` to the parameters."""
        for name, parameter in self.parameters.items():
            parameter.grad = weights[name].grad

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradients before clipping, and clip them where the fit allows it."""
        largest = self.config.clip_norm if self.online.clips else float("inf")
        return torch.nn.utils.clip_grad_norm_(self.parameters.values(), largest)

    def apply(self, rate: float) -> None:
        """Do one step with the gradients of the parameters, and update the average."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.step_count += 1
        # a short memory at first, so that the average forgets the random initial weights
        decay = min(self.config.ema_decay, (1 + self.step_count) / (10 + self.step_count))
        live = [p.detach() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), live, 1.0 - decay)

    def keep_best(self) -> None:
        """Store the current average as the best so far."""
        self.best = {name: value.clone() for name, value in self.average.items()}

    def end_epoch(self, epoch: int) -> None:
        """Report the end of an epoch (from 1) to the fit."""
        self.online.end_epoch(epoch, self.config.epochs, self.parameters)

    @property
    def posterior(self) -> StoredPosterior | None:
        """Posterior fitted during training; None without one."""
        made = self.online.posterior(self.parameters)
        return None if made is None else made[0]

    @property
    def result(self) -> Mapping[str, Tensor]:
        """Final weights: the mean weights of a posterior fitted during training, else the best average."""
        made = self.online.posterior(self.parameters) if self.step_count else None
        return self.best if made is None else made[1]

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Set the parameters to these weights."""
        for name, value in weights.items():
            self.parameters[name].copy_(value)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Return all tensors by kind, for a checkpoint."""
        state = {
            f"{key}/{name}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        of_fit = self.online.state()
        tensors = {"model": self.parameters, "ema": self.average, "best": self.best, "optimizer": state}
        return tensors | ({"posterior": of_fit} if of_fit else {})

    def restore(self, state: State, step_count: int) -> None:
        """Restore :meth:`tensors`."""
        self.step_count = step_count
        self.load(state.of("model"))
        # in the order of the parameters, which differs from that of a file
        where = {name: p.device for name, p in self.parameters.items()}
        self.average = {name: state.of("ema")[name].to(device) for name, device in where.items()}
        self.best = {name: state.of("best")[name].to(device) for name, device in where.items()}
        for key_name, value in state.of("optimizer").items():
            key, _, name = key_name.partition("/")
            self.optimizer.state[self.parameters[name]][key] = value.to("cpu" if key == "step" else where[name])
        self.online.load(state.of("posterior"))
