"""``train``: training of a model file on labelled files."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blipcalc.core.domain import fit_domain
from blipcalc.data.labels import frame_hash
from blipcalc.errors import ConfigurationError
from blipcalc.model_file.model import Model, total_seconds
from blipcalc.model_file.model_file import load, save_model
from blipcalc.posteriors.blip import BlipModel
from blipcalc.posteriors.ensemble import stack_members
from blipcalc.process import plain_state
from blipcalc.training.batches import labelled_graphs
from blipcalc.training.config import DataConfig, ModelConfig, NoiseConfig, TrainConfig
from blipcalc.training.distributed import Processes
from blipcalc.training.members import Member, train_members
from blipcalc.training.noise import alpha_distribution, fit_noise
from blipcalc.training.plan import Plan
from blipcalc.training.prepare import Prepared, prepare


@plain_state()
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
    output : the model file to write, uncalibrated; the held-out calibration frames are for ``calibrate``
    data, model, training : settings, as objects or mappings
        without ``training`` a BLIP or a mixture gets 100 epochs without weight noise, then a fit of the noise, the best in our
        measurements (``warm`` and ``noise``, as mappings, change it); other posteriors get 200 epochs
    warm : settings of a deterministic training of each network before its weight noise is switched on
    noise : settings of a last stage that fits the weight noise of a BLIP, or of all BLIPs of a mixture jointly, on the
        validation frames (:mod:`blipcalc.training.noise`); it takes a few minutes, and starts again after an interruption
    start : a model file whose network is the starting point (fine-tuning); its references and scale are kept.  From an
        ensemble each network of an ensemble or a mixture starts from its own
    folder : run folder, ``runs/<output name>`` by default; the same command resumes an interrupted run
    only_member : train this network of an ensemble or mixture and stop, so that each member can train in its own process.  The
        same call without it assembles them
    command : recorded in the file

    Returns
    -------
    the trained model; None with ``only_member``, and in all processes of torchrun but the first

    Raises
    ------
    DataError, ConfigurationError or subclasses : for unusable data or settings
    TrainingDataReusedError : ``start`` was trained on held-out frames
    """
    if start is not None and Path(start).resolve() == Path(output).resolve():
        raise ConfigurationError(
            f"{output} is what the training starts from and would be overwritten; name another output"
        )
    plan = Plan.of(data, model, training, warm, noise, start)
    if only_member is not None and not 0 <= only_member < plan.model.n_members:
        raise ConfigurationError(f"only_member={only_member}, but there are {plan.model.n_members} networks, from 0 on")
    if only_member is not None and plan.model.vectorised:
        raise ConfigurationError(
            "only_member trains one network by itself, model.vectorised all side by side; choose one"
        )
    prepared = prepare([paths] if isinstance(paths, (str, Path)) else list(paths), plan.data)
    plan.refuse_seen(prepared)
    plan.refuse_silent(prepared)
    folder = Path(folder) if folder is not None else Path("runs") / Path(output).stem
    wanted = [k for k in range(plan.model.n_members) if only_member in (None, k)]
    members: list[Member] = []
    for group in [wanted] if plan.model.vectorised else [[k] for k in wanted]:
        members += train_members(group, plan, prepared, folder)
    trained, processes = None, Processes.join(plan.training.device)
    if only_member is None and processes.is_main:
        asked = {"command": command, "start": None if start is None else str(start)}
        trained = _assembled(plan, prepared, members, folder / "noise", asked)
        save_model(trained, output)
        # read back as any user would: constants rounded for training are exact again
        trained = load(output)
    processes.leave()
    return trained


def _assembled(
    plan: Plan,
    prepared: Prepared,
    members: Sequence[Member],
    noise_folder: Path,
    asked: Mapping[str, Any],
) -> Model:
    """Join the trained networks into one model, with jointly fitted noise where requested."""
    network, method = members[0].network.cpu(), plan.model.method
    posterior, noise_figures, fit_figures, alpha = members[0].posterior, None, None, None
    began = time.perf_counter()
    if posterior is None:
        parts = {"train": prepared.split.train, "validation": prepared.split.validation}
        frames = {part: labelled_graphs(parts[part], network.cutoff) for part in method.reads}
        networks = stack_members([member.state() for member in members]) if method.is_several else {}
        posterior, fit_figures = method.fit(network, networks, frames, plan.training.device)
    seconds = round(time.perf_counter() - began)
    if method.has_noise:
        held_out = labelled_graphs(prepared.split.validation, network.cutoff)
        if plan.noise:
            posterior, noise_figures = fit_noise(network, posterior, held_out, plan.noise, noise_folder)
        if isinstance(network, BlipModel):
            alpha = alpha_distribution(network, posterior, held_out[:: max(1, len(held_out) // 100)])
    stages = {name: getattr(plan, name) for name in ("model", "training", "warm", "noise")}
    timed = [member.figures for member in members] + ([noise_figures] if noise_figures else [])
    seen = {frame_hash(a) for a in prepared.split.train + prepared.split.validation}
    if plan.start is not None:
        seen |= set(plan.start.frames.tolist())
    return Model(
        network=network,
        posterior=posterior,
        surface=plan.model.surface or ("centre" if method.has_centre else "mean"),
        training={
            **asked,
            "data": plan.data.model_dump(mode="json") | {"files": prepared.files},
            **{name: None if stage is None else stage.model_dump(mode="json") for name, stage in stages.items()},
            "n_train": len(prepared.split.train),
            "n_validation": len(prepared.split.validation),
            "n_calibration": len(prepared.split.calibration),
            "validation": [member.figures for member in members],
            "noise_fit": noise_figures,
            "posterior_fit": fit_figures,
            "alpha": alpha,
            "wall_seconds": seconds + sum(stage["seconds"] for stage in timed),
            "wall_seconds_before": None if plan.start is None else total_seconds(plan.start),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {plan.training.device}",
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        },
        frames=torch.tensor(sorted(seen)),
        domain=fit_domain(network, prepared.split.train),
    )
