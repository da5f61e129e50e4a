"""Identity of a training, which ties checkpoints to it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from blipcalc.core.contracts import Network
from blipcalc.core.graph import Graph
from blipcalc.core.identity import network_identity
from blipcalc.settings import Count, NotNegative, Settings


class StoredTraining(Settings):
    """Metadata of a training checkpoint, beside its tensors."""

    kind: Literal["training checkpoint"]
    identity: str
    config: dict[str, Any]
    epoch: Count
    step: Count
    seconds: NotNegative
    noise_units: tuple[NotNegative, NotNegative] | None
    best: dict[str, float] | None


def run_identity(model: Network, method: object, *graphs: Sequence[Graph]) -> str:
    """Return SHA-256 over the initial network, the settings of it and of the method, and the labelled graphs."""
    digest = hashlib.sha256(f"{network_identity(model)} {method!r}".encode())
    for part in graphs:
        digest.update(f"{len(part)} graphs\0".encode())
        for graph in part:
            for values in (graph.species, graph.positions, graph.cell, graph.pbc, graph.energy, graph.forces):
                digest.update(f"{tuple(values.shape)}\0".encode() + values.numpy().tobytes())
    return digest.hexdigest()
