"""``train``: from labelled files to a calibrated model file."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from blipcalc.data.splits import Split, split_frames
from blipcalc.errors import ConfigurationError, MixedElementsError
from blipcalc.models.registry import build_model
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
    validation: float = Field(0.05, gt=0, lt=1, description="fraction of each file")
    calibration: float = Field(0.1, ge=0, lt=1, description="fraction of each file, held out from training")
    split_seed: int = Field(0, ge=0)


class ModelConfig(Settings):
    """What is trained."""

    architecture: str = Field("painn", description="painn, schnet or visnet")
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
    parts: dict[str, list[Atoms]] = {"train": [], "validation": [], "calibration": []}
    files = {}
    for path in map(Path, paths):
        frames = read_labelled(
            path,
            energy_key=data.energy_key,
            forces_key=data.forces_key,
            energy_unit=data.energy_unit,
            length_unit=data.length_unit,
        )
        split = split_frames(frames, validation=data.validation, calibration=data.calibration, seed=data.split_seed)
        for name, part in parts.items():
            part += getattr(split, name)
        files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    references = fit_references(parts["train"])
    for name in ("validation", "calibration"):
        foreign = {int(z) for atoms in parts[name] for z in atoms.numbers} - set(references)
        if foreign:
            raise MixedElementsError(
                f"{name} frames hold {', '.join(chemical_symbols[z] for z in sorted(foreign))}, which no training frame has; "
                "give more frames, or files of one chemistry"
            )
    return Prepared(Split(**parts), references, force_rms(parts["train"]), files)


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
        without ``training``, ``warm`` and ``noise`` a BLIP or a mixture gets what measured best: 100 epochs without noise,
        then the noise fitted; other posteriors get 200 epochs
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
    the trained model; None with ``only_member``

    Raises
    ------
    DataError, ConfigurationError : and their kinds
    """
    data, model_config = DataConfig.of(data), ModelConfig.of(model)
    if model_config.is_blip and training is None and warm is None and noise is None:
        warm, training, noise = TrainConfig(epochs=100), TrainConfig(epochs=0), NoiseConfig()
    config, warm_config = TrainConfig.of(training), None if warm is None else TrainConfig.of(warm)
    noise_config = None if noise is None else NoiseConfig.of(noise)
    if noise_config and not model_config.is_blip:
        raise ConfigurationError(f"posterior={model_config.posterior!r} has no noise to fit; use 'blip' or 'mixture'")
    weights_stay = config.epochs == 0 and (warm_config is None or warm_config.epochs == 0)
    if start is not None and model_config.n_members > 1 and weights_stay:
        raise ConfigurationError(
            f"{model_config.n_members} members that start from one network and are not trained stay one network; take "
            "posterior='blip', or epochs > 0"
        )
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    folder = Path(folder) if folder is not None else Path("runs") / Path(output).stem
    prepared = prepare(paths, data)
    start_model = None if start is None else load_model(start)
    if only_member is not None and not 0 <= only_member < model_config.n_members:
        raise ConfigurationError(
            f"only_member={only_member}, but there are {model_config.n_members} networks, from 0 on"
        )
    states, figures = [], []
    for k in range(model_config.n_members):
        if only_member not in (None, k):
            continue
        member = folder / f"member-{k}" if model_config.n_members > 1 else folder
        network, report = _train_member(k, prepared, model_config, config, warm_config, start_model, member)
        # a copy: the network that is kept is filled with the first member below
        states.append({name: value.detach().cpu().clone() for name, value in network.named_parameters()})
        figures.append(report)
    if only_member is not None:
        return None
    network = network.cpu()
    network.load_state_dict({**network.state_dict(), **states[0]})
    posterior, noise_figures, alpha = _posterior(model_config, network, states), None, None
    held_out = labelled_graphs(prepared.split.validation, network.cutoff) if model_config.is_blip else []
    if noise_config:
        posterior, noise_figures = fit_noise(network, posterior, held_out, noise_config, folder / "noise")
    if model_config.is_blip:
        alpha = alpha_distribution(network, posterior, held_out[:: max(1, len(held_out) // 100)])
    trained = Model(
        network=network,
        posterior=posterior,
        surface=model_config.surface or ("centre" if model_config.is_blip else "mean"),
        training={
            "command": command,
            "data": data.model_dump(mode="json") | {"files": prepared.files},
            "model": model_config.model_dump(mode="json"),
            "training": config.model_dump(mode="json"),
            "warm": None if warm_config is None else warm_config.model_dump(mode="json"),
            "noise": None if noise_config is None else noise_config.model_dump(mode="json"),
            "start": None if start is None else str(start),
            "n_train": len(prepared.split.train),
            "n_validation": len(prepared.split.validation),
            "n_calibration": len(prepared.split.calibration),
            "validation": figures,
            "noise_fit": noise_figures,
            "alpha": alpha,
            "wall_seconds": sum(report["seconds"] for report in [*figures, noise_figures or {"seconds": 0}]),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {config.device}",
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        },
        frames=torch.tensor(sorted({frame_hash(a) for a in prepared.split.train + prepared.split.validation})),
    )
    processes = Processes.join(config.device)
    if processes.is_main:
        save_model(trained, output)
    processes.leave()
    return trained


def _train_member(
    k: int,
    prepared: Prepared,
    model_config: ModelConfig,
    config: TrainConfig,
    warm: TrainConfig | None,
    start: Model | None,
    folder: Path,
) -> tuple[nn.Module, dict[str, Any]]:
    """One network: fresh or from a model file, a warm deterministic stage if asked for, then the stage proper."""
    network = _fresh(prepared, model_config, config.seed + k) if start is None else _started(prepared, start)
    train_graphs = labelled_graphs(prepared.split.train, network.cutoff)
    validation_graphs = labelled_graphs(prepared.split.validation, network.cutoff)
    seconds = 0.0
    if warm is not None:
        seeded = warm.model_copy(update={"seed": warm.seed + k})
        first = Trainer(network, PointPosterior(), train_graphs, validation_graphs, seeded, folder / "warm")
        first.fit()
        seconds = first.seconds
    posterior: Posterior = PointPosterior()
    if model_config.is_blip:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + k)
            network = bayesianize(network.cpu(), model_config.blip)
        posterior = BlipPosterior(network.slot_shapes())
    seeded = config.model_copy(update={"seed": config.seed + k})
    trainer = Trainer(network, posterior, train_graphs, validation_graphs, seeded, folder)
    trainer.fit()
    best = trainer.best if trainer.best["epoch"] >= 0 else {"score": None, "epoch": 0}
    return network, {**best, "seconds": round(seconds + trainer.seconds)}


def _fresh(prepared: Prepared, model_config: ModelConfig, seed: int) -> nn.Module:
    """A new network; its initial weights depend on the seed alone, and the process's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_model(model_config.architecture, model_config.sizes, prepared.species)
    network.energies.set(prepared.references, prepared.scale, network.species)
    return network


def _started(prepared: Prepared, start: Model) -> nn.Module:
    """The deterministic network of a model file."""
    network = start.network
    if start.posterior.name not in ("point",):
        raise ConfigurationError(f"start needs a deterministic model (posterior 'point'), got {start.posterior.name!r}")
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
