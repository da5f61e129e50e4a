"""Training of the networks of a model, one after the other or as a vectorised ensemble."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from blipcalc.core.contracts import NOISE_UNIT, Network, Posterior
from blipcalc.core.graph import Graph
from blipcalc.errors import MixedElementsError
from blipcalc.files.run_folder import alone
from blipcalc.model_file.model import Model
from blipcalc.models.build import build_model
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.posteriors.point import PointPosterior
from blipcalc.posteriors.stored import StoredPosterior
from blipcalc.training.batches import labelled_graphs
from blipcalc.training.config import ModelConfig, TrainConfig
from blipcalc.training.distributed import Processes
from blipcalc.training.plan import Plan
from blipcalc.training.prepare import Prepared
from blipcalc.training.side_by_side import fit_side_by_side
from blipcalc.training.trainer import Trainer


@dataclass(frozen=True)
class Member:
    """One trained network.

    figures : epoch and score of the selected weights, seconds; those of a warm stage as ``warm``
    posterior : fitted during training; None without one
    """

    network: Network
    figures: dict[str, Any]
    posterior: StoredPosterior | None

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that differ between members, on the CPU: weights, and the noise units of heads."""
        units = [(name, value) for name, value in self.network.named_buffers() if name.endswith(NOISE_UNIT)]
        return {name: value.detach().cpu().clone() for name, value in (*self.network.named_parameters(), *units)}


def train_members(numbers: Sequence[int], plan: Plan, prepared: Prepared, folder: Path) -> list[Member]:
    """Train the networks of these numbers, new or from a model file: a warm stage where requested, then the main stage.

    Steps without weight noise can train several networks as a vectorised ensemble.

    raises : RunFolderBusyError where another process trains in one of the folders
    """
    folders = [folder / f"member-{k}" if plan.model.n_members > 1 else folder for k in numbers]
    with ExitStack() as held:
        if Processes.join(plan.training.device).is_main:
            for place in folders:
                held.enter_context(alone(place))
        return _trained(numbers, plan, prepared, folders)


def _trained(numbers: Sequence[int], plan: Plan, prepared: Prepared, folders: Sequence[Path]) -> list[Member]:
    networks = [_network(k, plan, prepared) for k in numbers]
    train, validation = prepared.split.train, prepared.split.validation
    graphs = labelled_graphs(train, networks[0].cutoff), labelled_graphs(validation, networks[0].cutoff)
    if plan.start is None:
        pairs = sum(graph.num_edges for graph in graphs[0]) / sum(graph.num_nodes for graph in graphs[0])
        for network in networks:
            network.set_statistics(prepared.references, prepared.scale, pairs)
    warm: list[Trainer] = []
    if plan.warm is not None:
        seeds = [plan.warm.seed + k for k in numbers]
        places = [place / "warm" for place in folders]
        warm = _fitted(networks, PointPosterior(), graphs, plan.warm, seeds, places)
    method, seeds = plan.model.method, [plan.training.seed + k for k in numbers]
    networks = [_made(method, network, seed) for network, seed in zip(networks, seeds, strict=True)]
    noise = method.noise(networks[0]) or PointPosterior()
    runs = _fitted(networks, noise, graphs, plan.training, seeds, folders, method)
    found = []
    for i, run in enumerate(runs):
        before = {"warm": _selected(warm[i])} if warm else {}
        seconds = run.seconds + (warm[i].seconds if warm else 0.0)
        figures = _selected(run) | {"seconds": round(seconds)} | before
        found.append(Member(networks[i].cpu(), figures, run.descent.posterior))
    return found


def _fitted(
    networks: Sequence[Network],
    posterior: Posterior,
    graphs: tuple[Sequence[Graph], Sequence[Graph]],
    config: TrainConfig,
    seeds: Sequence[int],
    folders: Sequence[Path],
    method: PosteriorMethod | None = None,
) -> list[Trainer]:
    """Run one stage of all networks, and return its trainers."""
    together = len(networks) > 1 and not posterior.is_random
    # in a vectorised ensemble the shared step is compiled instead of the members' own
    own = config.model_copy(update={"compile": config.compile and not together})
    runs = []
    for network, seed, folder in zip(networks, seeds, folders, strict=True):
        seeded, order = own.model_copy(update={"seed": seed}), seeds[0] if together else seed
        runs.append(Trainer(network, posterior, *graphs, seeded, folder, method, order))
        if not together:
            runs[-1].fit()
    if together:
        fit_side_by_side(runs, compiled=config.compile)
    return runs


def _selected(trainer: Trainer) -> dict[str, Any]:
    """Return epoch and score of the selected weights."""
    return dict(trainer.best) if trainer.best["epoch"] >= 0 else {"score": None, "epoch": 0}


def _network(k: int, plan: Plan, prepared: Prepared) -> Network:
    """Return network number k with its initial weights."""
    if plan.start is None:
        return _fresh(prepared, plan.model, plan.training.seed + k)
    return _started(prepared, plan.start, k)


def _made(method: PosteriorMethod, network: Network, seed: int) -> Network:
    """Return the network of the posterior; the seed alone sets the initial values of what the posterior adds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return method.network(network.cpu())


def _fresh(prepared: Prepared, model_config: ModelConfig, seed: int) -> Network:
    """Return a new network, whose initial weights depend on the seed alone; the random state of the process is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(model_config.architecture_or_default, model_config.sizes, prepared.species)


def _started(prepared: Prepared, start: Model, k: int) -> Network:
    """Return the deterministic network of a model file, or number k of its ensemble."""
    network = copy.deepcopy(start.network)
    foreign = set(prepared.species) - set(network.species)
    if foreign:
        raise MixedElementsError(
            f"the data hold {', '.join(chemical_symbols[z] for z in sorted(foreign))}, which the starting model does not know"
        )
    own = {name: value[k] for name, value in start.posterior.members.items()}
    network.load_state_dict({**network.state_dict(), **own})
    return network
