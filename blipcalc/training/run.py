"""``train``: from labelled files to a calibrated model file."""

from __future__ import annotations

import copy
import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from pydantic import Field
from torch import nn

from blipcalc.bayes.blip import BlipConfig, BlipPosterior, bayesianize
from blipcalc.bayes.ensemble import EnsemblePosterior, MixturePosterior, stack_members
from blipcalc.bayes.point import PointPosterior
from blipcalc.checkpoint import Model, load_model, save_model
from blipcalc.core.contracts import Posterior, Surface
from blipcalc.data.labels import frame_hash, read_labelled
from blipcalc.data.references import fit_references, force_rms
from blipcalc.data.splits import Split, split_files
from blipcalc.errors import ConfigurationError, MixedElementsError, TrainingDataReusedError
from blipcalc.models.registry import build_model, model_name
from blipcalc.settings import Settings
from blipcalc.training.batches import labelled_graphs
from blipcalc.training.config import TrainConfig
from blipcalc.training.distributed import Processes
from blipcalc.training.noise import NoiseConfig, alpha_distribution, fit_noise
from blipcalc.training.trainer import Trainer
from blipcalc.units import EnergyUnit, LengthUnit


class DataConfig(Settings):
    """Where labels come from and how they are split."""

    energy_key: str = "energy"
    forces_key: str = "forces"
    energy_unit: EnergyUnit = "eV"
    length_unit: LengthUnit = "Angstrom"
    validation: float = Field(0.05, gt=0, lt=1, description="fraction of each file; small files are pooled")
    calibration: float = Field(0.1, ge=0, lt=1, description="fraction of each file, held out from training")
    split_seed: int = Field(0, ge=0)


class ModelConfig(Settings):
    """What is trained."""

    architecture: str | None = Field(None, description="painn, schnet or visnet; None: painn, or that of ``start``")
    sizes: dict[str, Any] = Field(
        default_factory=dict, description="settings of the architecture; its defaults otherwise"
    )
    posterior: Literal["point", "blip", "ensemble", "mixture"] = "mixture"
    members: int = Field(2, ge=2, description="networks of an ensemble or a mixture")
    blip: BlipConfig = Field(default_factory=BlipConfig)
    surface: Surface | None = Field(
        None, description="surface that the model file recommends; None: centre where there is one, else mean"
    )

    @property
    def is_blip(self) -> bool:
        """Whether its networks carry noise."""
        return self.posterior in ("blip", "mixture")

    @property
    def n_members(self) -> int:
        """Networks to train."""
        return self.members if self.posterior in ("ensemble", "mixture") else 1


@dataclass(frozen=True)
class Prepared:
    """Data ready for training: the split, its reference energies (eV per element) and scale (eV)."""

    split: Split
    references: dict[int, float]
    scale: float
    files: dict[str, str]

    @property
    def species(self) -> list[int]:
        """Atomic numbers of the training frames."""
        return sorted(self.references)


def prepare(paths: Sequence[str | Path], data: DataConfig) -> Prepared:
    """Read labelled files, split each with the same seed, and fit references and scale to the training frames.

    Raises
    ------
    DataError and its kinds; MixedElementsError where validation or calibration frames hold elements that training lacks
    """
    named: list[tuple[str, list[Atoms]]] = []
    files: dict[str, str] = {}
    for path in map(Path, paths):
        frames = read_labelled(
            path,
            energy_key=data.energy_key,
            forces_key=data.forces_key,
            energy_unit=data.energy_unit,
            length_unit=data.length_unit,
        )
        named.append((str(path), frames))
        files[str(path) if path.name in files else path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    split = split_files(named, validation=data.validation, calibration=data.calibration, seed=data.split_seed)
    references = fit_references(split.train)
    for name in ("validation", "calibration"):
        foreign = {int(z) for atoms in getattr(split, name) for z in atoms.numbers} - set(references)
        if foreign:
            raise MixedElementsError(
                f"{name} frames hold {', '.join(chemical_symbols[z] for z in sorted(foreign))}, which no training frame has; "
                "give more frames, or files of one chemistry"
            )
    return Prepared(split, references, force_rms(split.train), files)


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
    start : a model file whose network is the starting point (fine-tuning); its references and scale are kept
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
    data, model_config = DataConfig.of(data), ModelConfig.of(model)
    if model_config.is_blip and training is None:
        training = TrainConfig(epochs=0)
        warm = warm if isinstance(warm, TrainConfig) else {"epochs": 100, **(warm or {})}
        noise = NoiseConfig.of(noise)
    plan = _Plan(
        data,
        model_config,
        TrainConfig.of(training),
        None if warm is None else TrainConfig.of(warm),
        None if noise is None else NoiseConfig.of(noise),
        None if start is None else load_model(start),
    )
    plan = _checked(plan, only_member)
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    folder = Path(folder) if folder is not None else Path("runs") / Path(output).stem
    prepared = prepare(paths, data)
    _refuse_seen(plan, prepared)
    states, figures = [], []
    for k in range(plan.model.n_members):
        if only_member not in (None, k):
            continue
        member = folder / f"member-{k}" if plan.model.n_members > 1 else folder
        network, report = _train_member(k, plan, prepared, member)
        # a copy: the network that is kept is filled with the first member below
        states.append({name: value.detach().cpu().clone() for name, value in network.named_parameters()})
        figures.append(report)
    trained, processes = None, Processes.join(plan.training.device)
    if only_member is None and processes.is_main:
        asked = {"command": command, "start": None if start is None else str(start)}
        trained = _assembled(plan, prepared, network.cpu(), states, figures, folder / "noise", asked)
        save_model(trained, output)
    processes.leave()
    return trained


@dataclass(frozen=True)
class _Plan:
    """All that was asked for."""

    data: DataConfig
    model: ModelConfig
    training: TrainConfig
    warm: TrainConfig | None
    noise: NoiseConfig | None
    start: Model | None


def _checked(plan: _Plan, only_member: int | None) -> _Plan:
    """The plan with the architecture that it means; contradictions are refused."""
    model, start = plan.model, plan.start
    if plan.noise and not model.is_blip:
        raise ConfigurationError(f"posterior={model.posterior!r} has no noise to fit; use 'blip' or 'mixture'")
    if plan.training.epochs == 0 and (plan.warm is None or plan.warm.epochs == 0):
        if start is None:
            raise ConfigurationError("no epochs, so the weights would stay random; give epochs, warm epochs, or start")
        if model.n_members > 1:
            raise ConfigurationError(
                f"{model.n_members} members that start from one network and are not trained stay one network; take "
                "posterior='blip', or epochs > 0"
            )
    if only_member is not None and not 0 <= only_member < model.n_members:
        raise ConfigurationError(f"only_member={only_member}, but there are {model.n_members} networks, from 0 on")
    if start is None:
        return replace(plan, model=model.model_copy(update={"architecture": model.architecture or "painn"}))
    if start.posterior.name != "point":
        raise ConfigurationError(f"start needs a deterministic model (posterior 'point'), got {start.posterior.name!r}")
    own = {"architecture": model_name(start.network), "sizes": start.network.config.model_dump(mode="json")}
    given = {"architecture": model.architecture or own["architecture"], "sizes": {**own["sizes"], **model.sizes}}
    if given != own:
        raise ConfigurationError(
            f"the starting model is {own}, but {given} was asked for; leave them out, or train anew"
        )
    return replace(plan, model=model.model_copy(update=own))


def _refuse_seen(plan: _Plan, prepared: Prepared) -> None:
    """Refuse frames that shall measure errors and that the starting network was trained on.

    A network that was trained on the same split has seen its validation frames too, but its weights have not.
    """
    if plan.start is None:
        return
    seen, before = set(plan.start.frames.tolist()), plan.start.training.get("data", {})
    split = {key: getattr(plan.data, key) for key in ("validation", "calibration", "split_seed")}
    same = {**split, "files": prepared.files} == {key: before.get(key) for key in (*split, "files")}
    uses = {"calibrate": prepared.split.calibration}
    if plan.noise and not same:
        uses["fit the noise"] = prepared.split.validation
    for use, frames in uses.items():
        known = sum(frame_hash(atoms) in seen for atoms in frames)
        if known:
            raise TrainingDataReusedError(
                f"{known} of {len(frames)} frames that would {use} are among those that the starting model was trained on; "
                "give the files, fractions and split seed of its own training, or other frames"
            )


def _assembled(
    plan: _Plan,
    prepared: Prepared,
    network: nn.Module,
    states: Sequence[Mapping[str, torch.Tensor]],
    figures: Sequence[Mapping[str, Any]],
    noise_folder: Path,
    asked: Mapping[str, Any],
) -> Model:
    """The trained networks as one model, their noise fitted together where that was asked for."""
    network.load_state_dict({**network.state_dict(), **states[0]})
    posterior, noise_figures, alpha = _posterior(plan.model, network, states), None, None
    held_out = labelled_graphs(prepared.split.validation, network.cutoff) if plan.model.is_blip else []
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
        surface=plan.model.surface or ("centre" if plan.model.is_blip else "mean"),
        training={
            **asked,
            "data": plan.data.model_dump(mode="json") | {"files": prepared.files},
            **{name: None if stage is None else stage.model_dump(mode="json") for name, stage in stages.items()},
            "n_train": len(prepared.split.train),
            "n_validation": len(prepared.split.validation),
            "n_calibration": len(prepared.split.calibration),
            "validation": list(figures),
            "noise_fit": noise_figures,
            "alpha": alpha,
            "wall_seconds": sum(report["seconds"] for report in [*figures, noise_figures or {"seconds": 0}]),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {plan.training.device}",
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        },
        frames=torch.tensor(sorted(frames)),
    )


def _train_member(k: int, plan: _Plan, prepared: Prepared, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """One network: fresh or from a model file, a warm deterministic stage if asked for, then the stage proper."""
    config = plan.training.model_copy(update={"seed": plan.training.seed + k})
    network = _fresh(prepared, plan.model, config.seed) if plan.start is None else _started(prepared, plan.start)
    graphs = [labelled_graphs(part, network.cutoff) for part in (prepared.split.train, prepared.split.validation)]
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
    trainer = Trainer(network, posterior, *graphs, config, folder)
    trainer.fit()
    figures = {**_selected(trainer), "seconds": round(trainer.seconds + (warm.seconds if warm else 0.0))}
    return network, figures | ({} if warm is None else {"warm": _selected(warm)})


def _selected(trainer: Trainer) -> dict[str, Any]:
    """Epoch and score of the weights that were kept."""
    return dict(trainer.best) if trainer.best["epoch"] >= 0 else {"score": None, "epoch": 0}


def _fresh(prepared: Prepared, model_config: ModelConfig, seed: int) -> nn.Module:
    """A new network; its initial weights depend on the seed alone, and the process's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_model(model_config.architecture, model_config.sizes, prepared.species)
    network.energies.set(prepared.references, prepared.scale, network.species)
    return network


def _started(prepared: Prepared, start: Model) -> nn.Module:
    """The deterministic network of a model file."""
    network = copy.deepcopy(start.network)
    foreign = set(prepared.species) - set(network.species)
    if foreign:
        raise MixedElementsError(
            f"the data hold {', '.join(chemical_symbols[z] for z in sorted(foreign))}, which the starting model does not know"
        )
    return network


def _posterior(
    model_config: ModelConfig, network: nn.Module, states: Sequence[Mapping[str, torch.Tensor]]
) -> Posterior:
    noise = BlipPosterior(network.slot_shapes()) if model_config.is_blip else None
    if model_config.n_members == 1:
        return noise or PointPosterior()
    members = stack_members(states)
    return MixturePosterior(members, noise) if noise else EnsemblePosterior(members)
