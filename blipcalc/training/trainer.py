"""Training loop for any model, posterior and objective; it resumes after a kill."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from blipcalc.core.contracts import NOISE_UNIT, Network, Posterior, place_draws
from blipcalc.core.graph import Graph
from blipcalc.errors import ConfigurationError, NonFiniteError
from blipcalc.files.run_folder import Checkpoints, State
from blipcalc.posteriors.method import RESIDUAL, PosteriorMethod
from blipcalc.posteriors.point import Point
from blipcalc.process import plain_state
from blipcalc.training.batches import Labelled, ordered_batches, shuffled_batches
from blipcalc.training.config import TrainConfig
from blipcalc.training.descent import Descent
from blipcalc.training.distributed import Processes
from blipcalc.training.logs import RunLog, Totals
from blipcalc.training.objectives import WITH_HEADS, likelihood_weight, losses
from blipcalc.training.run_identity import StoredTraining, run_identity
from blipcalc.training.schedules import kl_weight
from blipcalc.training.steps import StepOutput, step_function
from blipcalc.training.validation import residual_rms, validate

#: override with the seed of row noise (local reparametrisation)
ROW_SEED = "noise_seed"
#: settings that a resumed run may change; also more epochs, unless the fit of a posterior counts them
MAY_CHANGE = {"device", "compile", "checkpoint_every", "patience"}
#: number of training frames whose residuals give the initial variances of heads
RESIDUAL_FRAMES = 200


class Trainer:
    """State and loop of one training run.

    Parameters
    ----------
    model : an EnergyModel; its energy scale is the unit of the residuals
    posterior : gives the draws of each step (a point posterior gives none)
    train, validation : labelled graphs
    config : settings
    folder : run folder; checkpoints, ``log.csv`` and TensorBoard events go there
    order : seed of the order of the batches; None for that of the settings
    method : posterior method, whose posterior may be fitted during training
    """

    @plain_state()
    def __init__(
        self,
        model: Network,
        posterior: Posterior,
        train: Sequence[Graph],
        validation: Sequence[Graph],
        config: TrainConfig,
        folder: str | Path,
        method: PosteriorMethod | None = None,
        order: int | None = None,
    ) -> None:
        self.config, self.posterior, self.folder = config, posterior, Path(folder)
        self.processes = Processes.join(config.device)
        self.device, self.dtype = self.processes.device, getattr(torch, config.dtype)
        if config.batch_size < self.processes.world:
            raise ConfigurationError(
                f"batch_size={config.batch_size} is smaller than the {self.processes.world} processes; raise it"
            )
        if len(train) < self.processes.world:
            raise ConfigurationError(f"{len(train)} training frames for {self.processes.world} processes; start fewer")
        heads = WITH_HEADS.get(config.objective, "none")
        if heads not in ("none", model.heads):
            raise ConfigurationError(
                f"objective={config.objective!r} takes a network with heads={heads!r}, this one has {model.heads!r}"
            )
        components = 3 * sum(graph.num_nodes for graph in train)
        ess = components * likelihood_weight(config.objective, RESIDUAL) / (config.forces_weight or 1.0)
        online = (method or Point()).online(ess)
        self.checkpoints = Checkpoints(
            self.folder,
            run_identity(model, method, train, validation),
            config.model_dump() | {"order": config.seed if order is None else order},
            MAY_CHANGE if online.counts_epochs else MAY_CHANGE | {"epochs"},
            schema=StoredTraining,
        )
        self.model = model.to(self.device, self.dtype)
        self.train, self.validation = train, validation
        self.scale = float(model.energy_scale)
        self.descent = Descent(dict(self.model.named_parameters()), config, online)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.epoch = 0
        self.noise_units: tuple[float, float] | None = None  # known from the first step that trains variances
        self.seconds = 0.0  # of training and validation, over all resumed runs
        self.best: dict[str, Any] = {"score": float("inf"), "epoch": -1}
        self.steps_per_epoch = max(1, len(train) // config.batch_size)
        self._step = step_function(self.model, stacked=config.train_draws > 1, compiled=config.compile)
        self.log = RunLog(self.folder, active=self.processes.is_main)

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def _is_too_early(self) -> bool:
        """Whether the run has an objective with heads whose variances are not trained yet."""
        last = min(round(self.config.variance_warmup * self.total_steps), self.total_steps - 1)
        return self.config.objective in WITH_HEADS and self.descent.step_count < last

    @plain_state()
    def fit(self) -> None:
        """Train to the end from the folder's last whole checkpoint; the best EMA weights end in the model."""
        self.begin()
        bar = self.bar()
        while not self.is_done:
            began = time.perf_counter()
            losses = self._run_epoch()
            figures = self.end_epoch(losses, time.perf_counter() - began)
            bar.update()
            bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()})
        bar.close()
        self.finish()

    def begin(self) -> None:
        """Resume from the folder's last whole checkpoint."""
        self.processes.weights_as_first(self.descent.parameters.values())
        self._resume()

    @property
    def is_done(self) -> bool:
        """Return whether all epochs are done, or the patience is exhausted."""
        return self.epoch >= self.config.epochs or self._out_of_patience()

    def bar(self) -> tqdm:
        """Return a progress bar over the epochs, at the present one."""
        return tqdm(total=self.config.epochs, initial=self.epoch, unit="epoch", disable=not self.processes.is_main)

    def batches(self) -> Iterator[Labelled]:
        """Yield the batches of this process in this epoch, on its device."""
        for batch in shuffled_batches(
            self.train,
            self.config.batch_size,
            self.dtype,
            seed=self.checkpoints.settings["order"],
            epoch=self.epoch,
            rank=self.processes.rank,
            world=self.processes.world,
        ):
            yield batch.to(self.device)

    def _run_epoch(self) -> dict[str, float]:
        totals = Totals()
        for batch in self.batches():
            totals.add(self._train_step(batch))
        return totals.means()

    def end_epoch(self, losses: dict[str, float], seconds: float) -> dict[str, float]:
        """Validate, log and save after the steps of an epoch, which took ``seconds``; return the figures of the validation."""
        began = time.perf_counter()
        figures = self.processes.as_first(self._validate())
        self.seconds += seconds + time.perf_counter() - began
        self.epoch += 1
        row = {"epoch": self.epoch, "step": self.descent.step_count, "lr": self._rate(), **losses, **figures}
        if figures["score"] < self.best["score"]:
            self.best = {"score": figures["score"], "epoch": self.epoch}
            self.descent.keep_best()
        self.log.write(row)
        self.descent.end_epoch(self.epoch)
        if self.epoch % self.config.checkpoint_every == 0 or self.epoch == self.config.epochs:
            self._save()
        return figures

    def finish(self) -> None:
        """Load the final weights into the model."""
        self.log.close()
        self.descent.load(self.descent.result)

    def _rate(self) -> float:
        return self.descent.rate(self.epoch, self.total_steps)

    def _out_of_patience(self) -> bool:
        return self.config.patience > 0 and self.epoch - max(self.best["epoch"], 0) >= self.config.patience

    def _turn_to_variances(self) -> None:
        """Set the initial variances of heads from the residuals on training frames.

        Other initial variances would distort the trunk, and residuals divided by σ² would make the steps of Adam, whose moments
        come from undivided ones, thirty times too long: both returned networks to their initial errors.
        """
        own = next(value for name, value in self.model.named_buffers() if name.endswith(NOISE_UNIT))
        if not bool((own == 1.0).all()):  # heads trained before keep their unit
            self.noise_units = tuple(own.tolist())
            return
        frames = self.train[:: max(1, len(self.train) // RESIDUAL_FRAMES)]
        batches = (b.to(self.device) for b in ordered_batches(frames, self.config.batch_size, self.dtype))
        weights, overrides = self.descent.parameters, self._overrides()
        with torch.no_grad():
            rms = residual_rms((self._step(weights, overrides, *batch.graph), batch) for batch in batches)
        found = self.processes.as_first({name: value / self.scale for name, value in rms.items()})
        self.noise_units = found["energy"], found["forces"]
        self.model.set_noise_unit(*self.noise_units)

    def _overrides(self) -> dict[str, Tensor]:
        """Draw the noise of one step on the CPU from the run's own generator, so that devices and processes agree."""
        draws = place_draws(self.model, self.posterior.draw(self.config.train_draws, generator=self.generator))
        if self.config.train_draws > 1:
            return dict(draws.overrides)
        overrides = {name: value[0] for name, value in draws.overrides.items()}
        if ROW_SEED in overrides:  # each process has other rows, so other noise
            overrides[ROW_SEED] = overrides[ROW_SEED] + self.processes.rank
        return overrides

    def _train_step(self, batch: Labelled) -> dict[str, float]:
        self.before_step()
        weights = self.descent.start(self.generator)
        loss, figures = self.loss(self._step(weights, self._overrides(), *batch.graph), batch)
        loss.backward()
        self.descent.collect(weights)
        self.apply_gradients()
        return figures

    def before_step(self) -> None:
        """Set the initial variances of heads at the first step that trains them."""
        if self.config.objective in WITH_HEADS and self.noise_units is None and not self._is_too_early:
            self._turn_to_variances()

    def loss(self, step: StepOutput, batch: Labelled) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and its parts: energies (eV), forces (eV/Å), penalty."""
        c = self.config
        penalty = self.processes.sum_of_means(step.penalty)
        name = "mse" if self._is_too_early else c.objective
        energy_loss, forces_loss = losses(
            name, step, batch, self.scale, mean=self.processes.mean, beta=c.beta, units=self.noise_units
        )
        weight = kl_weight(self.descent.step_count, self.total_steps, weight=c.kl_weight, warmup=c.kl_warmup)
        loss = c.energy_weight * energy_loss + c.forces_weight * forces_loss + weight * penalty.to(self.dtype)
        return loss, {
            "train_energy": float(energy_loss.detach()) * self.scale,
            "train_forces": float(forces_loss.detach()) * self.scale,
            "train_penalty": float(penalty.detach()),
        }

    def apply_gradients(self) -> None:
        """Do one step of the optimiser with the gradients of the parameters, and update the average of the weights."""
        self.processes.average_gradients(self.descent.parameters.values())
        if not torch.isfinite(self.descent.gradient_norm()):
            raise NonFiniteError(
                f"the gradient is not finite at step {self.descent.step_count}; the last whole checkpoint is in "
                f"{self.folder}: lower learning_rate or clip_norm, and train in another folder"
            )
        self.descent.apply(self._rate())

    def _validate(self) -> dict[str, float]:
        """Score the EMA weights on the validation frames, by the sampled predictive distribution where there is a spread."""
        live = {name: value.detach().clone() for name, value in self.descent.parameters.items()}
        self.descent.load(self.descent.average)
        batches = ordered_batches(self.validation, 4 * self.config.batch_size, self.dtype)
        # the same draws at every epoch, so that scores differ by the weights alone
        generator = torch.Generator().manual_seed(self.config.seed + 1)
        figures = validate(
            self.model,
            self.posterior,
            [b.to(self.device) for b in batches],
            n_draws=self.config.validation_draws,
            generator=generator,
            weights=(self.config.energy_weight, self.config.forces_weight),
        )
        self.descent.load(live)
        return figures

    def _save(self) -> None:
        if not self.processes.is_main:
            return
        tensors = self.descent.tensors() | {"generator": {"state": self.generator.get_state()}}
        figures = {
            "epoch": self.epoch,
            "step": self.descent.step_count,
            "seconds": self.seconds,
            "noise_units": self.noise_units,
            "best": self.best if self.best["epoch"] >= 0 else None,
        }
        self.checkpoints.save(State(tensors, figures))

    def _resume(self) -> None:
        state = self.checkpoints.load()
        if state is None:
            self.log.keep(0)
            return
        self.descent.restore(state, state.figures["step"])
        self.generator.set_state(state.of("generator")["state"])
        figures = state.figures
        self.epoch, self.seconds = figures["epoch"], figures["seconds"]
        self.best = figures["best"] or self.best
        if figures["noise_units"]:
            self.noise_units = tuple(figures["noise_units"])
            self.model.set_noise_unit(*self.noise_units)
        self.log.keep(self.epoch)
