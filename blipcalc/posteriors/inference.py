"""Settings of a BLIP, and the inference network that sets the noise variance α of every node and edge row.

``BlipConfig.inputs`` chooses the inputs of the network:

    species (paper)       α_node[i, ℓ] = g(MLP_node(h_i))_ℓ           α_edge[e, ℓ] = g(MLP_edge(r_e² / c²))_ℓ
    neighbourhood         α_node[i, ℓ] = g(MLP_node(c_i))_ℓ           α_edge[e, ℓ] = g(MLP_edge(r_e² / c², c_i + c_j))_ℓ
                          c_i = SiLU(W [h_i, Σ_j u(r_ij) (W_r b(r_ij)) ∘ h_j])

    bound: smooth (default)  g(x) = α_max · sigmoid(x)          paper  g(x) = p/(1 - p),  p = min(sigmoid(x), 0.8)

| symbol | variable |
|---|---|
| h_i | ``embedding`` of the species of atom i, 32 channels |
| r_e, c | length of pair e = (j → i), cutoff, Å |
| b, u | Bessel basis and envelope of :mod:`blipcalc.nn.radial` |

Species and lengths alone cannot distinguish a C-H bond of benzene from one of toluene, whose force errors are six times as
large; a neighbourhood can.  Source: Coscia, de Haan, Welling, arXiv 2508.14022 (2025), eqs. 5-7; the neighbourhood is our own.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from blipcalc.core.graph import GraphTensors
from blipcalc.nn.radial import BesselBasis, polynomial_envelope
from blipcalc.nn.scatter import gather_rows, segment_sum
from blipcalc.nn.species import SpeciesTable
from blipcalc.settings import Settings

#: the clamp of the paper's sigmoid: α ≤ 4
PAPER_P_MAX = 0.8
#: lower bound that keeps the derivative of √α finite where the sigmoid underflows
P_MIN = 1e-20
#: channels of the species embedding, radial functions of a neighbourhood
N_EMBEDDING, N_RADIAL = 32, 8
#: scalar layers that become variational
Where = Literal["all", "node", "edge", "last"]


class BlipConfig(Settings):
    """Settings of the variational posterior."""

    where: Where = Field(
        default="all", description="which scalar layers: all, node rows, edge rows, or last block and readout"
    )
    vectors: bool = Field(default=False, description="noise on vector mixers too (frozen mode only)")
    mode: Literal["frozen", "local"] = Field(
        default="frozen", description="frozen: eq. R, one ε per weight; local: eq. LR, the paper"
    )
    alpha: Literal["adaptive", "constant"] = Field(
        default="adaptive", description="constant: one learned α per layer, the control"
    )
    bound: Literal["smooth", "paper"] = Field(
        default="smooth", description="α_max·sigmoid, or clamped odds as in the paper"
    )
    alpha_max: float = Field(default=0.1, gt=0, description="upper end of the smooth bound")
    alpha_prior: float = Field(default=0.02, gt=0, description="α₀ = p₀/(1 - p₀) of the prior")
    alpha_initial: float = Field(default=3e-4, gt=0, description="α at the start of training")
    detach: bool = Field(
        default=False, description="no gradient of α to the positions (the paper's PaiNN); not conservative"
    )
    inputs: Literal["species", "neighbourhood"] = Field(
        default="neighbourhood",
        description="what α is a function of: species and pair length as in the paper, or neighbours too",
    )
    width: int = Field(default=64, ge=1, description="hidden units of the inference network")

    @model_validator(mode="after")
    def _inside(self) -> BlipConfig:
        for name in ("alpha_prior", "alpha_initial"):
            if not getattr(self, name) < 0.9 * self.top:
                raise ValueError(f"{name}={getattr(self, name)} must lie well inside the bound on α, {self.top}")
        if self.vectors and self.mode == "local":
            raise ValueError("noise on vector components breaks equivariance in local mode; use mode='frozen'")
        return self

    @property
    def top(self) -> float:
        """Largest possible α."""
        return self.alpha_max if self.bound == "smooth" else PAPER_P_MAX / (1 - PAPER_P_MAX)

    @classmethod
    def paper(cls) -> BlipConfig:
        """Return the published PaiNN settings: local reparametrisation, clamped odds, α₀ = 1, detached α."""
        return cls(mode="local", bound="paper", alpha_prior=1.0, alpha_initial=0.5, detach=True, inputs="species")


class Alphas(NamedTuple):
    """Relative noise variances: node (N, L_node), edge (E, L_edge)."""

    node: Tensor
    edge: Tensor


class Neighbourhood(nn.Module):
    """Smooth features c_i of every atom from its species and its neighbours, with zero contribution at the cutoff."""

    def __init__(self, cutoff: float, width: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.basis = BesselBasis(cutoff, N_RADIAL)
        self.filter = nn.Linear(N_RADIAL, N_EMBEDDING, bias=False)
        self.mix = nn.Linear(2 * N_EMBEDDING, width)

    def forward(self, h: Tensor, distances: Tensor, edge_index: Tensor) -> Tensor:
        """Compute c (N, width) from h (N, 32) and distances (E,) Å."""
        source, target = edge_index
        weights = self.filter(self.basis(distances)) * polynomial_envelope(distances, self.cutoff)[:, None]
        around = segment_sum(gather_rows(h, source) * weights, target, h.shape[0])
        return nn.functional.silu(self.mix(torch.cat([h, around], dim=-1)))


class InferenceNetwork(nn.Module):
    """Two small networks, for α of atoms and for α of pairs, with one output per layer.

    Rotation-invariant by construction: of a pair only its length enters.
    """

    def __init__(self, config: BlipConfig, species: tuple[int, ...], cutoff: float, n_node: int, n_edge: int) -> None:
        super().__init__()
        self.config, self.cutoff, self.n_node, self.n_edge = config, cutoff, n_node, n_edge
        self.table = SpeciesTable(species)
        start = self._inverse(config.alpha_initial)
        if config.alpha == "constant":
            self.level = nn.Parameter(torch.full((n_node + n_edge,), start))
            return
        sees_neighbours = config.inputs == "neighbourhood"
        self.embedding = nn.Embedding(len(species), N_EMBEDDING) if n_node or sees_neighbours else None
        self.node = self._network(config.width if sees_neighbours else N_EMBEDDING, n_node, start) if n_node else None
        self.edge = self._network(1 + config.width if sees_neighbours else 1, n_edge, start) if n_edge else None
        self.neighbourhood = Neighbourhood(cutoff, config.width) if sees_neighbours else None

    def _network(self, n_inputs: int, n_outputs: int, start: float) -> nn.Sequential:
        """Return a network of two layers with all outputs near ``start``."""
        first, last = nn.Linear(n_inputs, self.config.width), nn.Linear(self.config.width, n_outputs)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, start)
        return nn.Sequential(first, nn.SiLU(), last)

    def _inverse(self, alpha: float) -> float:
        """Return x with g(x) = α."""
        if self.config.bound == "paper":
            return math.log(alpha)
        p = alpha / self.config.alpha_max
        return math.log(p / (1 - p))

    def _bounded(self, x: Tensor) -> Tensor:
        """Apply g to the output of the last layer, which gives α."""
        p = P_MIN + (1 - P_MIN) * torch.sigmoid(x)
        if self.config.bound == "paper":
            p = torch.clamp(p, max=PAPER_P_MAX)
            return p / (1 - p)
        return self.config.alpha_max * p

    def forward(self, graph: GraphTensors) -> Alphas:
        """Compute α of every row of every Bayesian layer."""
        n, e = graph.species.shape[0], graph.vectors.shape[0]
        if self.config.alpha == "constant":
            level = self._bounded(self.level)
            return Alphas(level[: self.n_node].expand(n, -1), level[self.n_node :].expand(e, -1))
        vectors = graph.vectors.detach() if self.config.detach else graph.vectors
        squared = (vectors * vectors).sum(dim=-1, keepdim=True)
        atoms = None if self.embedding is None else self.embedding(self.table(graph.species))
        pairs = squared / self.cutoff**2
        if self.neighbourhood is not None:
            source, target = graph.edge_index
            atoms = self.neighbourhood(atoms, squared[:, 0].sqrt(), graph.edge_index)
            pairs = torch.cat([pairs, gather_rows(atoms, source) + gather_rows(atoms, target)], dim=-1)
        empty = vectors.new_zeros
        node = empty(n, 0) if self.node is None else self._bounded(self.node(atoms))
        edge = empty(e, 0) if self.edge is None else self._bounded(self.edge(pairs))
        return Alphas(node, edge)
