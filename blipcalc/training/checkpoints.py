"""The checkpoints of a run folder: which is the newest whole one, and what run it belongs to."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from blipcalc.core.graph import Graph
from blipcalc.errors import ModelFileError, TrainingWarning
from blipcalc.sealed import read_sealed

#: the two generations of checkpoints in a run folder
NEWEST, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


def last_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], bool] | None:
    """The newest whole checkpoint of a run folder and whether it is the newest file; None where there is none."""
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if path.exists():
            try:
                return *read_sealed(path), name == NEWEST
            except ModelFileError as error:
                warnings.warn(f"passed over: {error}", TrainingWarning, stacklevel=2)
    return None


def run_identity(model: nn.Module, method: object, *graphs: Sequence[Graph]) -> str:
    """SHA-256 over the network as it starts, all settings of it and of the method, and the labelled graphs: what a checkpoint
    belongs to.
    """
    configs = {name: repr(m.config) for name, m in model.named_modules() if hasattr(m, "config")}
    digest = hashlib.sha256(
        repr([configs, model.cutoff, model.species, *([] if method is None else [method])]).encode()
    )
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}\0".encode() + value.detach().cpu().numpy().tobytes())
    for part in graphs:
        digest.update(f"{len(part)} graphs\0".encode())
        for graph in part:
            for values in (graph.species, graph.positions, graph.cell, graph.pbc, graph.energy, graph.forces):
                digest.update(f"{tuple(values.shape)}\0".encode() + values.numpy().tobytes())
    return digest.hexdigest()
