"""Which training a checkpoint belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import nn

from blipcalc.core.graph import Graph
from blipcalc.core.identity import network_identity


def run_identity(model: nn.Module, method: object, *graphs: Sequence[Graph]) -> str:
    """SHA-256 over the network as it starts, all settings of it and of the method, and the labelled graphs: what a checkpoint
    belongs to.
    """
    digest = hashlib.sha256(f"{network_identity(model)} {method!r}".encode())
    for part in graphs:
        digest.update(f"{len(part)} graphs\0".encode())
        for graph in part:
            for values in (graph.species, graph.positions, graph.cell, graph.pbc, graph.energy, graph.forces):
                digest.update(f"{tuple(values.shape)}\0".encode() + values.numpy().tobytes())
    return digest.hexdigest()
