"""SchNet: continuous-filter convolutions on distances, built from the blocks of PyTorch Geometric.

Source: Schütt et al., NeurIPS 2017 (arXiv 1706.08566), section 4.  The blocks (Gaussian expansion, filter network,
interaction) are those of ``torch_geometric.nn.models.SchNet``; its own radius graph and readout are not used: the pairs
come from the graph, with all their periodic images, and the energies end in
:class:`~blipcalc.models.readout.AtomicEnergies`.

The filters carry a cosine cutoff, ``(cos(π r / c) + 1) / 2``, which vanishes at the cutoff with its first derivative:
energy and forces are continuous when an atom crosses it, second derivatives jump.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from blipcalc.core.contracts import ModelOutput, Role
from blipcalc.core.graph import GraphTensors
from blipcalc.models.potential import Potential, xavier
from blipcalc.process import quiet_imports
from blipcalc.settings import Settings

with quiet_imports():
    from torch_geometric.nn.models.schnet import GaussianSmearing, InteractionBlock, ShiftedSoftplus


class SchNetConfig(Settings):
    """Sizes of a :class:`SchNet`; the defaults are those of PyTorch Geometric but for the cutoff (there 10 Å)."""

    features: int = Field(default=128, ge=4, description="F, channels per atom")
    filters: int = Field(default=128, ge=4, description="channels of a filter")
    interactions: int = Field(default=6, ge=1, description="interaction blocks")
    n_radial: int = Field(default=50, ge=2, description="Gaussians on [0, cutoff]")
    cutoff: float = Field(default=5.0, gt=0, description="Å")

    @classmethod
    def small(cls) -> SchNetConfig:
        """Return a small preset for tests and laptops: 32 features, 2 interactions."""
        return cls(features=32, filters=32, interactions=2, n_radial=20)


class SchNet(Potential):
    """A network of continuous-filter convolutions on distances.

        x_i ← x_i + W · ssp(Σ_j W_in x_j ∘ f(r_ij) c(r_ij))

    | symbol | variable |
    |---|---|
    | x_i | ``x`` (N, F) |
    | f, filter network on Gaussians of r_ij | ``interactions.*.conv.nn`` |
    | c, cosine cutoff | inside ``interactions.*.conv`` |

    Parameters
    ----------
    config : sizes
    species : known atomic numbers
    """

    Config = SchNetConfig
    config: SchNetConfig

    def __init__(self, config: SchNetConfig, species: Sequence[int]) -> None:
        super().__init__(config, species)
        self.embedding = nn.Embedding(len(self.species), config.features)
        self.basis = GaussianSmearing(0.0, config.cutoff, config.n_radial)
        self.interactions = nn.ModuleList(
            InteractionBlock(config.features, config.n_radial, config.filters, config.cutoff)
            for _ in range(config.interactions)
        )
        for interaction in self.interactions:
            # PyG keeps the filter network under two names; with one, every parameter is in the state dict once.
            del interaction.mlp
        self.readout_inner = nn.Linear(config.features, config.features // 2)
        self.activation = ShiftedSoftplus()
        self.readout_outer = nn.Linear(config.features // 2, 1)
        xavier(self.readout_inner, self.readout_outer)

    def layer_roles(self) -> dict[str, Role]:
        """Return the role of each linear layer."""
        roles: dict[str, Role] = {}
        for i in range(self.config.interactions):
            block = f"interactions.{i}"
            roles |= {f"{block}.conv.lin1": "node", f"{block}.conv.lin2": "node", f"{block}.lin": "node"}
            roles |= {f"{block}.conv.nn.0": "edge", f"{block}.conv.nn.2": "edge"}
        return roles | {"readout_inner": "node", "readout_outer": "node"}

    def forward(self, graph: GraphTensors) -> ModelOutput:
        """Compute the energies of a graph."""
        rows = self.table(graph.species)
        distances = torch.linalg.vector_norm(graph.vectors, dim=-1)
        radial = self.basis(distances)
        x = self.embedding(rows)
        for interaction in self.interactions:
            x = x + interaction(x, graph.edge_index, distances, radial)
        outputs = self.readout_outer(self.activation(self.readout_inner(x)))[:, 0]
        return self.energies(outputs, rows, graph, features=x)
