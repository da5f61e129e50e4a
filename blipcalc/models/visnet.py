"""ViSNet: vector-scalar interactive message passing, built from the blocks of PyTorch Geometric.

Source: Wang et al., Nature Communications 15, 313 (2024), doi 10.1038/s41467-023-43720-2 (arXiv 2210.16518).  The
blocks (radial basis, spherical harmonics, attention) are those of ``torch_geometric.nn.models.ViSNet``.  Five things
differ:

* pairs come from the graph; a pair of an atom with its own image is a pair like any other (PyG drops i = j), so that
  cells smaller than the cutoff equal their supercells;
* ``s_proj`` of the attention has no bias: with one, the vector message of a neighbour at the cutoff is not zero, and
  energy and forces jump when an atom crosses it.  Without, the cosine cutoff ``(cos(π r / c) + 1) / 2`` acts on every
  message: energy and forces are continuous there, second derivatives jump;
* norms are ``sqrt(Σ x² + ε)``, smooth at zero, where the plain norm has no second derivative (isolated atoms, perfect
  crystals);
* the edge update projects the vectors of atoms before it gathers them to pairs: the same numbers from N rows, not E;
* the last block of the readout has no vector channel, which would be unused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from blipcalc.core.contracts import ModelOutput, Role
from blipcalc.core.graph import GraphTensors
from blipcalc.models.potential import Potential, xavier
from blipcalc.nn.scatter import gather_rows, segment_sum
from blipcalc.process import quiet_imports
from blipcalc.settings import Settings

with quiet_imports():
    from torch_geometric.nn.models.visnet import CosineCutoff, ExpNormalSmearing, Sphere, ViS_MP

#: smooths the norm where vectors vanish by symmetry, as in a perfect crystal; (feature unit)².  Measured
#: on one atom displaced in fcc copper, random weights: with 1e-8 the restoring force per Å falls by a factor of 3.6
#: between 1e-4 and 3e-2 Å (a cusp, not a spring), with 1e-4 by 0.4 %.
NORM_EPSILON = 1e-4


class ViSNetConfig(Settings):
    """Sizes of a :class:`ViSNet`; the defaults are those of PyTorch Geometric."""

    features: int = Field(default=128, ge=4, description="F, scalar and vector channels per atom; a multiple of heads")
    layers: int = Field(default=6, ge=1, description="message-passing layers")
    heads: int = Field(default=8, ge=1, description="attention heads")
    n_radial: int = Field(default=32, ge=2, description="exponential-normal radial functions")
    lmax: Literal[1, 2] = Field(default=1, description="highest degree of the spherical harmonics")
    cutoff: float = Field(default=5.0, gt=0, description="Å")

    @model_validator(mode="after")
    def _heads_divide_features(self) -> ViSNetConfig:
        if self.features % self.heads:
            raise ValueError(f"features must be a multiple of heads, got features={self.features}, heads={self.heads}")
        return self

    @classmethod
    def small(cls) -> ViSNetConfig:
        """Return a small preset for tests and laptops: 32 features, 2 layers, 4 heads."""
        return cls(features=32, layers=2, heads=4, n_radial=16)


def _norm(vectors: Tensor) -> Tensor:
    """Return norms (N, F) over the M components of vectors (N, M, F)."""
    return torch.sqrt((vectors * vectors).sum(dim=1) + NORM_EPSILON)


class NeighborEmbedding(nn.Module):
    """Initial features of an atom from its element and those of its neighbours.

    x_i = W_c [e(Z_i), Σ_j e'(Z_j) ∘ W_d(r_ij) c(r_ij)]
    """

    def __init__(self, n_species: int, features: int, n_radial: int, cutoff: float) -> None:
        super().__init__()
        self.own = nn.Embedding(n_species, features)
        self.neighbors = nn.Embedding(n_species, features)
        self.distance_proj = nn.Linear(n_radial, features)
        self.combine = nn.Linear(2 * features, features)
        self.envelope = CosineCutoff(cutoff)

    def forward(self, rows: Tensor, radial: Tensor, distances: Tensor, edge_index: Tensor) -> Tensor:
        """Compute x (N, F) of rows (N,), radial (E, B), distances (E,) Å."""
        source, target = edge_index
        own = self.own(rows)
        weights = self.distance_proj(radial) * self.envelope(distances)[:, None]
        around = segment_sum(gather_rows(self.neighbors(rows), source) * weights, target, own.shape[0])
        return self.combine(torch.cat([own, around], dim=-1))


class EdgeUpdate(nn.Module):
    """Update of pair features from the vectors at both ends, each without its part along the pair.

    Δf_ij = silu(W_f f_ij) ∘ Σ_m Rej(W_t v_i, d_ij)_m ∘ Rej(W_s v_j, d_ij)_m,    Rej(v, d) = v - (v · d) d
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.f_proj = nn.Linear(features, features)
        self.w_src_proj = nn.Linear(features, features, bias=False)
        self.w_trg_proj = nn.Linear(features, features, bias=False)

    def forward(self, v: Tensor, f: Tensor, harmonics: Tensor, edge_index: Tensor) -> Tensor:
        """Compute Δf (E, F) of v (N, M, F), f (E, F), harmonics (E, M)."""
        source, target = edge_index
        at_target = ViS_MP.vector_rejection(gather_rows(self.w_trg_proj(v), target), harmonics)
        at_source = ViS_MP.vector_rejection(gather_rows(self.w_src_proj(v), source), harmonics)
        return nn.functional.silu(self.f_proj(f)) * (at_target * at_source).sum(dim=1)


class Readout(nn.Module):
    """Two gated equivariant blocks, the last with a scalar alone.

    (a, b) = MLP(x, ‖U v‖),   x ← silu(a),   v ← b ∘ V v,   y = MLP(x, ‖U' v‖)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        half = features // 2
        self.mix_u = nn.Linear(features, features, bias=False)
        self.mix_v = nn.Linear(features, half, bias=False)
        self.inner = nn.Linear(2 * features, features)
        self.outer = nn.Linear(features, 2 * half)
        self.last_mix = nn.Linear(half, half, bias=False)
        self.last_inner = nn.Linear(2 * half, half)
        self.last_outer = nn.Linear(half, 1)

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        """Compute outputs (N,) of x (N, F), v (N, M, F)."""
        gates = self.outer(nn.functional.silu(self.inner(torch.cat([x, _norm(self.mix_u(v))], dim=-1))))
        scalar, gate = gates.chunk(2, dim=-1)
        x, v = nn.functional.silu(scalar), gate[:, None, :] * self.mix_v(v)
        hidden = self.last_inner(torch.cat([x, _norm(self.last_mix(v))], dim=-1))
        return self.last_outer(nn.functional.silu(hidden))[:, 0]


class ViSNet(Potential):
    """A network of vector-scalar interactive message passing.

    Parameters
    ----------
    config : sizes
    species : known atomic numbers
    """

    Config = ViSNetConfig
    config: ViSNetConfig

    def __init__(self, config: ViSNetConfig, species: Sequence[int]) -> None:
        super().__init__(config, species)
        features, cutoff = config.features, config.cutoff
        self.basis = ExpNormalSmearing(cutoff, config.n_radial, trainable=False)
        self.harmonics = Sphere(config.lmax)
        self.embedding = NeighborEmbedding(len(self.species), features, config.n_radial, cutoff)
        self.edge_proj = nn.Linear(config.n_radial, features)
        # last_layer=True leaves PyG's own edge update out of every layer; ours follows.
        self.layers = nn.ModuleList(
            ViS_MP(config.heads, features, cutoff, None, False, last_layer=True) for _ in range(config.layers)
        )
        for layer in self.layers:
            layer.s_proj = nn.Linear(features, 2 * features, bias=False)
        self.edge_updates = nn.ModuleList(EdgeUpdate(features) for _ in range(config.layers - 1))
        self.out_norm = nn.LayerNorm(features)
        self.readout = Readout(features)
        xavier(self)

    def layer_roles(self) -> dict[str, Role]:
        """Return the role of each linear layer."""
        roles: dict[str, Role] = {"embedding.distance_proj": "edge", "embedding.combine": "node", "edge_proj": "edge"}
        for i in range(self.config.layers):
            roles |= {f"layers.{i}.{name}": "node" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
            roles |= {f"layers.{i}.{name}": "edge" for name in ("dk_proj", "dv_proj", "s_proj")}
            roles |= {f"layers.{i}.vec_proj": "vector"}
        for i in range(self.config.layers - 1):
            roles |= {f"edge_updates.{i}.f_proj": "edge"}
            roles |= {f"edge_updates.{i}.{name}": "vector" for name in ("w_src_proj", "w_trg_proj")}
        roles |= {f"readout.{name}": "vector" for name in ("mix_u", "mix_v", "last_mix")}
        return roles | {f"readout.{name}": "node" for name in ("inner", "outer", "last_inner", "last_outer")}

    def last_layers(self) -> tuple[str, ...]:
        """Return the layers whose first outputs sum to the energy."""
        return ("readout.last_outer",)

    def forward(self, graph: GraphTensors) -> ModelOutput:
        """Compute the energies of a graph."""
        rows = self.table(graph.species)
        source, target = graph.edge_index
        distances = torch.linalg.vector_norm(graph.vectors, dim=-1)
        harmonics = self.harmonics(graph.vectors / distances[:, None])
        radial = self.basis(distances)
        x = self.embedding(rows, radial, distances, graph.edge_index)
        f = (gather_rows(x, source) + gather_rows(x, target)) * self.edge_proj(radial)
        v = torch.zeros(x.shape[0], harmonics.shape[-1], x.shape[1], dtype=x.dtype, device=x.device)
        for i, layer in enumerate(self.layers):
            dx, dv, _ = layer(x, v, graph.edge_index, distances, f, harmonics)
            if i < len(self.edge_updates):
                f = f + self.edge_updates[i](v, f, harmonics, graph.edge_index)
            x, v = x + dx, v + dv
        x = self.out_norm(x)
        return self.energies(self.readout(x, v), rows, graph, features=x)
