"""Batches of labelled graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from ase import Atoms
from torch import Tensor

from blipcalc.core.graph import Graph, GraphTensors
from blipcalc.data.labels import labels


class Labelled(NamedTuple):
    """A batch: inputs of the model, energies (S,) eV and forces (N, 3) eV/Å."""

    graph: GraphTensors
    energy: Tensor
    forces: Tensor

    def to(self, device: torch.device | str) -> Labelled:
        """Return the batch on another device."""
        old = self.graph
        graph = GraphTensors(
            old.vectors.to(device),
            old.edge_index.to(device),
            old.species.to(device),
            old.batch.to(device),
            old.n_structures,
        )
        return Labelled(graph, self.energy.to(device), self.forces.to(device))


def labelled_graphs(frames: Sequence[Atoms], cutoff: float) -> list[Graph]:
    """Return one graph per frame with labels and edge vectors; neighbour pairs are searched once for the whole training."""
    graphs = []
    for atoms in frames:
        graph = Graph.from_atoms(atoms, cutoff)
        graph.vectors = graph.edge_vectors()
        energy, forces = labels(atoms)
        graph.energy = torch.tensor([energy], dtype=torch.float64)
        graph.forces = torch.from_numpy(forces)
        graphs.append(graph)
    return graphs


def collate(graphs: Sequence[Graph], dtype: torch.dtype) -> Labelled:
    """Join labelled graphs into one batch."""
    batch = Graph.collate(graphs)
    return Labelled(batch.tensors(dtype, batch.vectors.to(dtype)), batch.energy, batch.forces.to(dtype))


def shuffled_batches(
    graphs: Sequence[Graph],
    batch_size: int,
    dtype: torch.dtype,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Labelled]:
    """Yield the batches of one epoch, which depend on (seed, epoch) alone, so that a resumed run has the same ones.

    With ``world`` processes each takes every ``world``-th structure of a batch; an incomplete last batch is dropped unless it
    is the only one.
    """
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    order = torch.randperm(len(graphs), generator=generator).tolist()
    n_batches = max(1, len(order) // batch_size)
    for b in range(n_batches):
        chosen = order[b * batch_size : (b + 1) * batch_size][rank::world]
        yield collate([graphs[i] for i in chosen], dtype)


def ordered_batches(graphs: Sequence[Graph], batch_size: int, dtype: torch.dtype) -> Iterator[Labelled]:
    """Yield batches of all graphs in order."""
    for start in range(0, len(graphs), batch_size):
        yield collate(graphs[start : start + batch_size], dtype)
