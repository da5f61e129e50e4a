"""A small network on radial symmetry functions.

    G_i,(f, b) = Σ_j u(r_ij) B_b(r_ij) e_f(Z_j),     y_i = MLP(G_i, e(Z_i))

Source: Behler and Parrinello 2007, Phys. Rev. Lett. 98, 146401, with Bessel functions for B and learned weights e of elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from blipcalc.core.contracts import ModelOutput, Role
from blipcalc.core.graph import GraphTensors
from blipcalc.models.potential import Potential, xavier
from blipcalc.nn.radial import BesselBasis, polynomial_envelope
from blipcalc.nn.scatter import gather_rows, segment_sum
from blipcalc.settings import Settings


class RadialConfig(Settings):
    """Sizes of a :class:`Radial`."""

    elements: int = Field(4, ge=1, description="channels that tell elements apart")
    hidden: int = Field(16, ge=2, description="channels of the network on the symmetry functions")
    n_radial: int = Field(6, ge=1, description="radial functions")
    cutoff: float = Field(4.0, gt=0, description="Å")


class Radial(Potential):
    """Energies of atoms from the distances of their neighbours alone."""

    Config = RadialConfig

    def __init__(self, config: RadialConfig, species: Sequence[int]) -> None:
        super().__init__(config, species)
        self.embedding = nn.Embedding(len(self.species), config.elements)
        self.basis = BesselBasis(config.cutoff, config.n_radial)
        self.readout_inner = nn.Linear(config.elements * (config.n_radial + 1), config.hidden)
        self.readout_outer = nn.Linear(config.hidden, 1)
        xavier(self.readout_inner, self.readout_outer)

    def layer_roles(self) -> dict[str, Role]:
        """All rows are atoms."""
        return {"readout_inner": "node", "readout_outer": "node"}

    def forward(self, graph: GraphTensors) -> ModelOutput:
        """Energies of a graph."""
        rows, (source, target) = self.table(graph.species), graph.edge_index
        element = self.embedding(rows)
        distances = torch.linalg.vector_norm(graph.vectors, dim=-1)
        radial = self.basis(distances) * polynomial_envelope(distances, self.cutoff)[:, None]
        pairs = (radial[:, :, None] * gather_rows(element, source)[:, None, :]).flatten(1)
        features = torch.cat([segment_sum(pairs, target, len(rows)), element], dim=-1)
        outputs = self.readout_outer(torch.tanh(self.readout_inner(features)))[:, 0]
        return self.energies(outputs, rows, graph, features=features)
