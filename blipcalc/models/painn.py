"""PaiNN: an equivariant message-passing network on scalars and vectors.

Source: Schütt, Unke, Gastegger, ICML 2021 (arXiv 2102.03150), equations 7–10.  Two choices differ from the paper: the radial
filter is cut off by a polynomial with two vanishing derivatives instead of a cosine with one (smooth second derivatives), and
the vector norm is ``sqrt(Σ x² + ε)``, smooth at zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from blipcalc.core.contracts import Heads, ModelOutput, Role
from blipcalc.core.graph import GraphTensors
from blipcalc.models.heads import HeadsConfig, with_noise
from blipcalc.models.potential import Potential, xavier
from blipcalc.nn.radial import BesselBasis, polynomial_envelope
from blipcalc.nn.scatter import gather_rows, segment_sum
from blipcalc.nn.symmetric import symmetric_traceless
from blipcalc.settings import Settings

#: smooths the norm of a vanishing vector, (feature unit)²: with 1e-8 the force near a site of inversion symmetry has a cusp
#: (2500 eV/Å² at 1e-5 Å in fcc Cu with random weights), with 1e-4 it is linear below 1e-2 Å
NORM_EPSILON = 1e-4
#: number of vector pairs whose products make the tensor of a force covariance
QUADRUPOLES = 8


class PaiNNConfig(Settings):
    """Sizes of a :class:`PaiNN`; the defaults are the reference size (Schütt et al. 2021, 128 features, 3 interactions)."""

    features: int = Field(default=128, ge=4, le=4096, description="F, scalar and vector channels per atom")
    interactions: int = Field(default=3, ge=1, le=64, description="message and update blocks")
    n_radial: int = Field(default=20, ge=2, le=512, description="Bessel functions")
    cutoff: float = Field(default=5.0, gt=0, description="Å")
    heads: HeadsConfig = Field(default_factory=HeadsConfig, description="outputs beside the energy")

    @classmethod
    def small(cls) -> PaiNNConfig:
        """Return a small preset for tests and laptops: 32 features, 2 interactions."""
        return cls(features=32, interactions=2, n_radial=12)


class Message(nn.Module):
    """Messages from neighbours, with F channels (eqs. 7 and 8).

    Δs_i = Σ_j φ_s(s_j) ∘ W_s(r_ij)
    Δv_i = Σ_j v_j ∘ φ_vv(s_j) ∘ W_vv(r_ij) + Σ_j φ_vs(s_j) ∘ W_vs(r_ij) r̂_ij
    """

    def __init__(self, features: int, n_radial: int) -> None:
        super().__init__()
        self.inner = nn.Linear(features, features)
        self.outer = nn.Linear(features, 3 * features)
        self.filter = nn.Linear(n_radial, 3 * features)

    def forward(
        self, s: Tensor, v: Tensor, radial: Tensor, envelope: Tensor, unit: Tensor, edge_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute Δs (N, F), Δv (N, 3, F) of s (N, F), v (N, 3, F), radial (E, B), envelope (E,), unit (E, 3)."""
        source, target = edge_index
        phi = self.outer(nn.functional.silu(self.inner(s)))
        x = gather_rows(phi, source) * (self.filter(radial) * envelope[:, None])
        from_s, from_v, from_r = x.chunk(3, dim=-1)
        dv = from_v[:, None, :] * gather_rows(v, source) + from_r[:, None, :] * unit[:, :, None]
        return (
            segment_sum(from_s, target, s.shape[0]),
            segment_sum(dv, target, s.shape[0]),
        )


class Update(nn.Module):
    """Mixing within an atom (eqs. 9 and 10).

    Δs_i = a_ss + a_sv ⟨U v_i, V v_i⟩,   Δv_i = a_vv U v_i,   (a_ss, a_sv, a_vv) = MLP(s_i, ‖V v_i‖)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mix_u = nn.Linear(features, features, bias=False)
        self.mix_v = nn.Linear(features, features, bias=False)
        self.inner = nn.Linear(2 * features, features)
        self.outer = nn.Linear(features, 3 * features)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Compute Δs (N, F), Δv (N, 3, F) of s (N, F), v (N, 3, F)."""
        u, w = self.mix_u(v), self.mix_v(v)
        norm = torch.sqrt((w * w).sum(dim=1) + NORM_EPSILON)
        a = self.outer(nn.functional.silu(self.inner(torch.cat([s, norm], dim=-1))))
        a_ss, a_sv, a_vv = a.chunk(3, dim=-1)
        return a_ss + a_sv * (u * w).sum(dim=1), a_vv[:, None, :] * u


class PaiNN(Potential):
    """An equivariant message-passing network on scalars and vectors.

    Parameters
    ----------
    config : sizes
    species : known atomic numbers
    """

    Config = PaiNNConfig
    config: PaiNNConfig

    def __init__(self, config: PaiNNConfig, species: Sequence[int]) -> None:
        super().__init__(config, species)
        features = config.features
        self.embedding = nn.Embedding(len(self.species), features)
        self.basis = BesselBasis(config.cutoff, config.n_radial)
        self.messages = nn.ModuleList(Message(features, config.n_radial) for _ in range(config.interactions))
        self.updates = nn.ModuleList(Update(features) for _ in range(config.interactions))
        self.readout_inner = nn.Linear(features, features // 2)
        self.readout_outer = nn.Linear(features // 2, config.heads.n_outputs)
        if config.heads.has_quadrupole:
            self.quadrupole_u = nn.Linear(features, QUADRUPOLES, bias=False)
            self.quadrupole_v = nn.Linear(features, QUADRUPOLES, bias=False)
        xavier(self)
        with torch.no_grad():  # initial variances are those of the labels, isotropic
            self.readout_outer.weight[1:] = 0.0
            if config.heads.has_quadrupole:
                self.quadrupole_v.weight.zero_()

    @property
    def heads(self) -> Heads:
        """Variances that the network itself gives."""
        return self.config.heads.predict

    def layer_roles(self) -> dict[str, Role]:
        """Return the role of each linear layer."""
        roles: dict[str, Role] = {}
        for i in range(self.config.interactions):
            roles |= {f"messages.{i}.inner": "node", f"messages.{i}.outer": "node", f"messages.{i}.filter": "edge"}
            roles |= {f"updates.{i}.mix_u": "vector", f"updates.{i}.mix_v": "vector"}
            roles |= {f"updates.{i}.inner": "node", f"updates.{i}.outer": "node"}
        if self.config.heads.has_quadrupole:
            roles |= {"quadrupole_u": "vector", "quadrupole_v": "vector"}
        return roles | {"readout_inner": "node", "readout_outer": "node"}

    def forward(self, graph: GraphTensors) -> ModelOutput:
        """Compute the energies of a graph."""
        rows = self.table(graph.species)
        distances = torch.linalg.vector_norm(graph.vectors, dim=-1)
        unit = graph.vectors / distances[:, None]
        radial = self.basis(distances)
        envelope = polynomial_envelope(distances, self.cutoff)
        s = self.embedding(rows)
        v = torch.zeros(s.shape[0], 3, s.shape[1], dtype=s.dtype, device=s.device)
        for message, update in zip(self.messages, self.updates, strict=True):
            ds, dv = message(s, v, radial, envelope, unit, graph.edge_index)
            s, v = s + ds, v + dv
            ds, dv = update(s, v)
            s, v = s + ds, v + dv
        outputs = self.readout_outer(nn.functional.silu(self.readout_inner(s)))
        output = self.energies(outputs[:, 0], rows, graph, features=s)
        quadrupole = None
        if self.config.heads.has_quadrupole:
            quadrupole = symmetric_traceless(self.quadrupole_u(v), self.quadrupole_v(v))
        return with_noise(
            output, self.config.heads, outputs[:, 1:], quadrupole, graph, self.energies.scale, self.noise_unit
        )
