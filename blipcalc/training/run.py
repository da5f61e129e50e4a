"""``train``: from labelled files to a calibrated model file."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import nn

from blipcalc.bayes.blip import BlipPosterior, bayesianize
from blipcalc.bayes.ensemble import EnsemblePosterior, MixturePosterior, stack_members
from blipcalc.bayes.gaussian import GaussianPosterior
from blipcalc.bayes.last_layer import LAST_LAYER
from blipcalc.bayes.point import PointPosterior
from blipcalc.checkpoint import Model, load_model, save_model, total_seconds
from blipcalc.core.contracts import NOISE_UNIT, Posterior
from blipcalc.data.labels import frame_hash
from blipcalc.errors import ConfigurationError, MixedElementsError
from blipcalc.models.registry import build_model
from blipcalc.training.batches import labelled_graphs
from blipcalc.training.config import DataConfig, ModelConfig, NoiseConfig, TrainConfig
from blipcalc.training.curvature import fit_all_weights
from blipcalc.training.distributed import Processes
from blipcalc.training.last_layer import fit_last_layer
from blipcalc.training.noise import alpha_distribution, fit_noise
from blipcalc.training.plan import Plan
from blipcalc.training.prepare import Prepared, prepare
from blipcalc.training.trainer import Trainer


def train(
    paths: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    data: DataConfig | Mapping[str, Any] | None = None,
    model: ModelConfig | Mapping[str, Any] | None = None,
    training: TrainConfig | Mapping[str, Any] | None = None,
    warm: TrainConfig | Mapping[str, Any] | None = None,
    noise: NoiseConfig | Mapping[str, Any] | None = None,
    start: str | Path | None = None,
    folder: str | Path | None = None,
    only_member: int | None = None,
    command: str | None = None,
) -> Model | None:
    """Train a potential on labelled files and write it as one ``.blip`` file.

    Parameters
    ----------
    paths : extxyz, ``.traj``, ``ase.db`` or rMD17-style ``.npz`` files
    output : the model file to write; uncalibrated, the held-out calibration frames are left for ``calibrate``
    data, model, training : settings, as objects or mappings
        without ``training`` a BLIP or a mixture gets what measured best: 100 epochs without noise, then the noise fitted
        (``warm`` and ``noise``, as mappings, change it); other posteriors get 200 epochs
    warm : settings of a deterministic training of each network before its noise is switched on
    noise : settings of a last stage that fits the noise of a BLIP, or of all BLIPs of a mixture together, on the validation
        frames (:mod:`blipcalc.training.noise`); a few minutes, begun anew where it was interrupted
    start : a model file whose network is the starting point (fine-tuning); its references and scale are kept.  From an
        ensemble each network of an ensemble or a mixture starts from its own
    folder : run folder, ``runs/<output name>`` by default; run the same command again to resume after a kill
    only_member : train this network of an ensemble or mixture and stop; so that members train side by side, one process
        each.  The same call without it assembles them
    command : recorded in the file

    Returns
    -------
    the trained model; None with ``only_member``, and in all processes of torchrun but the first

    Raises
    ------
    DataError, ConfigurationError : and their kinds
    TrainingDataReusedError : held-out frames that ``start`` was trained on
    """
    plan = Plan.of(data, model, training, warm, noise, start)
    if only_member is not None and not 0 <= only_member < plan.model.n_members:
        raise ConfigurationError(f"only_member={only_member}, but there are {plan.model.n_members} networks, from 0 on")
    prepared = prepare([paths] if isinstance(paths, (str, Path)) else list(paths), plan.data)
    plan.refuse_seen(prepared)
    folder = Path(folder) if folder is not None else Path("runs") / Path(output).stem
    states, figures, gaussian = [], [], None
    for k in range(plan.model.n_members):
        if only_member not in (None, k):
            continue
        member = folder / f"member-{k}" if plan.model.n_members > 1 else folder
        network, report, gaussian = _train_member(k, plan, prepared, member)
        # a copy: the network that is kept is filled with the first member below
        units = [(name, value) for name, value in network.named_buffers() if name.endswith(NOISE_UNIT)]
        states.append({name: value.detach().cpu().clone() for name, value in (*network.named_parameters(), *units)})
        figures.append(report)
    trained, processes = None, Processes.join(plan.training.device)
    if only_member is None and processes.is_main:
        asked = {"command": command, "start": None if start is None else str(start)}
        trained = _assembled(plan, prepared, network.cpu(), states, figures, folder / "noise", asked, gaussian)
        save_model(trained, output)
        trained = load_model(
            output
        )  # as everybody else will see it: constants that were rounded for training are exact again
    processes.leave()
    return trained


def _assembled(
    plan: Plan,
    prepared: Prepared,
    network: nn.Module,
    states: Sequence[Mapping[str, torch.Tensor]],
    figures: Sequence[Mapping[str, Any]],
    noise_folder: Path,
    asked: Mapping[str, Any],
    gaussian: GaussianPosterior | None,
) -> Model:
    """The trained networks as one model, their noise fitted together where that was asked for."""
    network.load_state_dict({**network.state_dict(), **states[0]})
    posterior, noise_figures, fit_figures, alpha = gaussian or _posterior(plan.model, network, states), None, None, None
    parts = (prepared.split.train, prepared.split.validation)
    held_out = labelled_graphs(parts[1], network.cutoff) if plan.model.is_blip else []
    began = time.perf_counter()
    if plan.model.posterior in LAST_LAYER:
        graphs = [labelled_graphs(part, network.cutoff) for part in parts]
        if plan.model.posterior == "laplace" and plan.model.laplace.weights == "all":
            posterior, fit_figures = fit_all_weights(network, graphs[0], plan.model.laplace, plan.training.device)
        else:
            posterior, fit_figures = fit_last_layer(plan.model.posterior, network, *graphs, plan.training.device)
    seconds = round(time.perf_counter() - began)
    if plan.noise:
        posterior, noise_figures = fit_noise(network, posterior, held_out, plan.noise, noise_folder)
    if plan.model.is_blip:
        alpha = alpha_distribution(network, posterior, held_out[:: max(1, len(held_out) // 100)])
    stages = {name: getattr(plan, name) for name in ("model", "training", "warm", "noise")}
    frames = {frame_hash(a) for a in prepared.split.train + prepared.split.validation}
    if plan.start is not None:
        frames |= set(plan.start.frames.tolist())
    return Model(
        network=network,
        posterior=posterior,
        surface=plan.model.surface or ("centre" if plan.model.has_centre else "mean"),
        training={
            **asked,
            "data": plan.data.model_dump(mode="json") | {"files": prepared.files},
            **{name: None if stage is None else stage.model_dump(mode="json") for name, stage in stages.items()},
            "n_train": len(prepared.split.train),
            "n_validation": len(prepared.split.validation),
            "n_calibration": len(prepared.split.calibration),
            "validation": list(figures),
            "noise_fit": noise_figures,
            "posterior_fit": fit_figures,
            "alpha": alpha,
            "wall_seconds": seconds + sum(report["seconds"] for report in [*figures, noise_figures or {"seconds": 0}]),
            "wall_seconds_before": None if plan.start is None else total_seconds(plan.start),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {plan.training.device}",
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        },
        frames=torch.tensor(sorted(frames)),
    )


def _train_member(
    k: int, plan: Plan, prepared: Prepared, folder: Path
) -> tuple[nn.Module, dict[str, Any], GaussianPosterior | None]:
    """One network: fresh or from a model file, a warm deterministic stage if asked for, then the stage proper."""
    config = plan.training.model_copy(update={"seed": plan.training.seed + k})
    network = _fresh(prepared, plan.model, config.seed) if plan.start is None else _started(prepared, plan.start, k)
    graphs = [labelled_graphs(part, network.cutoff) for part in (prepared.split.train, prepared.split.validation)]
    if plan.start is None:
        pairs = sum(graph.num_edges for graph in graphs[0]) / sum(graph.num_nodes for graph in graphs[0])
        network.set_statistics(prepared.references, prepared.scale, pairs)
    warm = None
    if plan.warm is not None:
        seeded = plan.warm.model_copy(update={"seed": plan.warm.seed + k})
        warm = Trainer(network, PointPosterior(), *graphs, seeded, folder / "warm")
        warm.fit()
    posterior: Posterior = PointPosterior()
    if plan.model.is_blip:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = bayesianize(network.cpu(), plan.model.blip)
        posterior = BlipPosterior(network.slot_shapes())
    trainer = Trainer(network, posterior, *graphs, config, folder, plan.model.method)
    trainer.fit()
    figures = {**_selected(trainer), "seconds": round(trainer.seconds + (warm.seconds if warm else 0.0))}
    return network, figures | ({} if warm is None else {"warm": _selected(warm)}), trainer.gaussian


def _selected(trainer: Trainer) -> dict[str, Any]:
    """Epoch and score of the weights that were kept."""
    return dict(trainer.best) if trainer.best["epoch"] >= 0 else {"score": None, "epoch": 0}


def _fresh(prepared: Prepared, model_config: ModelConfig, seed: int) -> nn.Module:
    """A new network; its initial weights depend on the seed alone, and the process's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(model_config.architecture, model_config.sizes, prepared.species)


def _started(prepared: Prepared, start: Model, k: int) -> nn.Module:
    """The deterministic network of a model file, or number k of its ensemble."""
    network = copy.deepcopy(start.network)
    foreign = set(prepared.species) - set(network.species)
    if foreign:
        raise MixedElementsError(
            f"the data hold {', '.join(chemical_symbols[z] for z in sorted(foreign))}, which the starting model does not know"
        )
    if isinstance(start.posterior, EnsemblePosterior):
        own = {name: value[k] for name, value in start.posterior.members.items()}
        network.load_state_dict({**network.state_dict(), **own})
    return network


def _posterior(
    model_config: ModelConfig, network: nn.Module, states: Sequence[Mapping[str, torch.Tensor]]
) -> Posterior:
    noise = BlipPosterior(network.slot_shapes()) if model_config.is_blip else None
    if model_config.n_members == 1:
        return noise or PointPosterior()
    members = stack_members(states)
    return MixturePosterior(members, noise) if noise else EnsemblePosterior(members)
