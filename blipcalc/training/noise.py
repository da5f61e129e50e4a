"""Fit of the weight noise of a trained BLIP, or of a mixture of BLIPs, on frames outside the training set.

The backbones are fixed; only the inference networks are trained.  With F⁰_m the forces of member m without noise, F⁰ their
mean, and draws F_k of member m(k),

    v_i = mean_k ‖F_k,i - F⁰_m(k),i‖² / 3 + mean_m ‖F⁰_m,i - F⁰_i‖² / 3 + δ²
    L   = mean_i ½ [ ln v_i + ‖F_ref,i - F⁰_i‖² / (3 v_i) ]     over atoms whose forces do not vanish by symmetry

so that the weight noise adds the variance that the spread of the members lacks, atom by atom.  Errors of a network are smaller on
its training frames than elsewhere, by a factor that depends on the chemistry, so the fit needs other frames.

L is the Gaussian score of a predictive variance, a proper one (Gneiting and Raftery 2007, section 4.1); choosing a posterior's
hyper-parameters by held-out likelihood is common practice; the form with a sum over members is our own.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from blipcalc.core.contracts import Network, place_draws
from blipcalc.core.graph import Graph
from blipcalc.errors import ConfigurationError, NonFiniteError, TrainingWarning, warn_user
from blipcalc.nn.scatter import gather_rows
from blipcalc.posteriors.blip import BlipModel
from blipcalc.posteriors.ensemble import stack_members
from blipcalc.posteriors.method import with_noise
from blipcalc.posteriors.stored import HasNoise, StoredPosterior, n_networks
from blipcalc.process import plain_state
from blipcalc.training.batches import Labelled, collate, shuffled_batches
from blipcalc.training.config import NoiseConfig
from blipcalc.training.descent import INFERENCE_PREFIX
from blipcalc.training.logs import RunLog
from blipcalc.training.schedules import learning_rate
from blipcalc.training.steps import step_function

#: δ, in units of the label scale, which keeps the logarithm finite for atoms whose forces vanish by symmetry
FLOOR = 1e-4
#: range of the mean squared z-score after a fit, on its own frames
FITTED = (0.6, 1.6)


@plain_state()
def fit_noise(
    network: Network,
    posterior: StoredPosterior,
    graphs: Sequence[Graph],
    config: NoiseConfig,
    folder: str | Path | None = None,
) -> tuple[HasNoise, dict[str, Any]]:
    """Fit the inference networks of a posterior in place; of a mixture ``network`` holds the first member afterwards.

    network : the BLIP, on the CPU
    graphs : labelled, of frames outside the training set
    folder : for ``log.csv``
    returns : the posterior with fitted noise, and the figures of the last epoch
    raises : ConfigurationError for a posterior without noise; NonFiniteError
    """
    if not isinstance(posterior, HasNoise):
        raise ConfigurationError(f"a posterior {posterior.name!r} has no noise to fit; use {with_noise()}")
    if not graphs:
        raise ConfigurationError("fitting the noise takes labelled frames, got none; hold out a larger fraction")
    began, fit = time.perf_counter(), _NoiseFit(network, posterior, config, len(graphs))
    log = None if folder is None else RunLog(Path(folder))
    if log is not None:
        log.keep(0)
    for epoch in tqdm(range(config.epochs_for(len(graphs))), unit="epoch", desc="noise"):
        figures = fit.run_epoch(graphs, epoch)
        if log is not None:
            log.write({"epoch": epoch + 1, **figures})
    if log is not None:
        log.close()
    if not FITTED[0] <= figures["mean_z2"] <= FITTED[1]:
        warn_user(
            f"the noise fit ended with a mean squared z-score of {figures['mean_z2']:.2f} on {len(graphs)} frames, where 1 is "
            "expected; give noise.epochs, or more validation frames",
            TrainingWarning,
        )
    return fit.posterior(), {**figures, "seconds": round(time.perf_counter() - began)}


@torch.no_grad()
def alpha_distribution(network: BlipModel, posterior: StoredPosterior, graphs: Sequence[Graph]) -> dict[str, Any]:
    """Return 5, 50 and 95 % quantiles of the learned α of a BLIP over the rows of some frames, by layer, members pooled.

    returns : {"layers": {layer: (q05, q50, q95)}, "near_bound": fraction of rows above nine tenths of the bound}
    """
    inference = network.inference
    prefix = next(name for name, module in network.named_modules() if module is inference) + "."
    own = {name.removeprefix(prefix): value for name, value in posterior.members.items() if name.startswith(prefix)}
    tensors = collate(graphs, next(network.parameters()).dtype).graph
    states = [{name: value[m] for name, value in own.items()} for m in range(n_networks(posterior))]
    found = [torch.func.functional_call(inference, state, (tensors,)) for state in states]
    top, layers, near = inference.config.top, {}, []
    for names, parts in ((network.node_layers, "node"), (network.edge_layers, "edge")):
        rows = torch.cat([getattr(alphas, parts) for alphas in found]).double()
        for k, name in enumerate(names):
            layers[name] = [float(f"{q:.3g}") for q in np.quantile(rows[:, k].numpy(), (0.05, 0.5, 0.95))]
        near.append(rows.reshape(-1) > 0.9 * top)
    return {"layers": layers, "near_bound": float(torch.cat(near).double().mean())}


class _NoiseFit:
    """The members, with gradients of the inference networks alone, and the optimiser."""

    def __init__(self, network: Network, posterior: HasNoise, config: NoiseConfig, n_frames: int) -> None:
        self.config, self.step_count = config, 0
        self.total_steps = config.epochs_for(n_frames) * config.steps_per_epoch(n_frames)
        self.device, self.dtype = torch.device(config.device), getattr(torch, config.dtype)
        self.network, self.original = copy.deepcopy(network).to(self.device, self.dtype), network
        self.given, self.noise = posterior, posterior.noise
        members = posterior.members or stack_members([dict(network.named_parameters())])
        self.members = {name: value.detach().to(self.device, self.dtype) for name, value in members.items()}
        self.fitted = {n: v.clone().requires_grad_(True) for n, v in self.members.items() if INFERENCE_PREFIX in n}
        self.members |= self.fitted
        self.n_members = next(iter(self.members.values())).shape[0]
        self.scale = float(network.energy_scale)
        self.optimizer = torch.optim.Adam(self.fitted.values(), lr=config.learning_rate)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.parameters = {name: value.detach() for name, value in self.network.named_parameters()}
        self._step = step_function(self.network, stacked=True, compiled=False)

    def run_epoch(self, graphs: Sequence[Graph], epoch: int) -> dict[str, float]:
        """Train one pass over the frames; return mean score (forces in units of the label scale) and mean squared z-score."""
        totals, n = {"nll": 0.0, "mean_z2": 0.0}, 0.0
        for batch in shuffled_batches(graphs, self.config.batch_size, self.dtype, seed=self.config.seed, epoch=epoch):
            figures, count = self._train_step(batch.to(self.device))
            for name, value in figures.items():
                totals[name] += value * count
            n += count
        return {name: value / max(n, 1.0) for name, value in totals.items()}

    def _forces(self, batch: Labelled, member: Tensor, noise: dict[str, Tensor]) -> tuple[Tensor, Tensor | float]:
        """Return (K, N, 3) forces and (N,) mean component variance from heads, or 0, in units of the label scale.

        member : (K,) index of the member of each draw
        """
        overrides = {name: gather_rows(value, member) for name, value in self.members.items()} | noise
        step = self._step(self.parameters, overrides, *batch.graph)
        own: Tensor | float = 0.0
        if step.forces_cov is not None:
            own = step.forces_cov.detach().diagonal(dim1=-2, dim2=-1).mean(dim=(0, 2)).to(self.dtype) / self.scale**2
        return step.forces / self.scale, own

    def _train_step(self, batch: Labelled) -> tuple[dict[str, float], float]:
        """Do one step; return the figures of the batch and its number of atoms that count."""
        c = self.config
        with torch.no_grad():
            modes, _ = self._forces(batch, torch.arange(self.n_members, device=self.device), {})
        draws = place_draws(self.network, self.noise.draw(c.draws, generator=self.generator))
        member = torch.arange(c.draws, device=self.device) % self.n_members
        noisy, aleatoric = self._forces(batch, member, dict(draws.overrides))
        within = (noisy - modes[member]).square().mean(dim=(0, 2))
        between = (modes - modes.mean(dim=0)).square().mean(dim=(0, 2))
        variance = within + between + aleatoric + FLOOR**2
        squared = (batch.forces / self.scale - modes.mean(dim=0)).square().mean(dim=1)
        # forces that vanish by symmetry have no error, and weight noise gives them no variance
        speaking = (squared > FLOOR**2) | (variance.detach() > 2 * FLOOR**2)
        count = speaking.sum().clamp(min=1)
        loss = 0.5 * ((variance.log() + squared / variance) * speaking).sum() / count
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.fitted.values(), c.clip_norm)
        if not torch.isfinite(norm):
            raise NonFiniteError(
                f"the gradient of the noise is not finite at step {self.step_count}; lower learning_rate"
            )
        rate = learning_rate(self.step_count, self.total_steps, peak=c.learning_rate, final=0.0, warmup=c.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step_count += 1
        z2 = ((squared / variance).detach() * speaking).sum() / count
        return {"nll": float(loss.detach()), "mean_z2": float(z2)}, float(speaking.sum())

    def posterior(self) -> HasNoise:
        """Return the posterior with the fitted noise, on the CPU; the given network holds its first member."""
        fitted = {name: value.detach().cpu() for name, value in self.fitted.items()}
        own = dict(self.original.named_parameters())
        with torch.no_grad():
            for name, value in fitted.items():
                own[name].copy_(value[0])
        kept = {
            name: fitted[name].to(value.dtype) if name in fitted else value
            for name, value in self.given.members.items()
        }
        return self.given.with_members(kept)
