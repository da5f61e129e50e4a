"""The Gauss-Newton matrix of energies and forces over all weights of a network, in a form that can be kept.

    G = σ_E⁻² Σ_E vec J vec Jᵀ + σ_F⁻² Σ_F vec J vec Jᵀ

| symbol | variable |
|---|---|
| J, the derivative of one energy or force component by the weights | ``jacobian``, of one tensor of weights |
| form of G | :class:`Structure`: its diagonal (:class:`Diagonal`), or :class:`~blipcalc.posteriors.kronecker.Kronecker` |

Energies and forces are summed apart, since their noise is known last.  (Schraudolph 2002, Neural Computation 14, 1723.)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from blipcalc.core.contracts import Network
from blipcalc.core.forces import forces_from_gradient
from blipcalc.core.graph import Graph

#: outputs differentiated at once; each takes as much memory as the weights
CHUNK = 32


class Eigen(NamedTuple):
    """A block of G in its own axes.

    values : (B, m, n), or the shape of the weights: its eigenvalues
    left, right : (B, m, m) U and (B, n, n) V of the axes U ⊗ V; None where they are those of the weights
    """

    values: Tensor
    left: Tensor | None = None
    right: Tensor | None = None


class Structure(Protocol):
    """What is kept of a block of G, the one of a tensor of weights."""

    def sums(self, jacobian: Tensor) -> tuple[Tensor, ...]:
        """Sums over O outputs of their derivatives (O, *shape), to be added up over the data, float64."""
        ...

    def eigen(self, sums: tuple[Tensor, ...]) -> Eigen:
        """The block that stands for such sums."""
        ...


class Diagonal:
    """G_kk alone."""

    def sums(self, jacobian: Tensor) -> tuple[Tensor, ...]:
        """Squares."""
        return (jacobian.square().sum(dim=0),)

    def eigen(self, sums: tuple[Tensor, ...]) -> Eigen:
        """As they are."""
        return Eigen(sums[0])


@dataclass(frozen=True)
class Curvature:
    """What one pass over the data leaves: sums of products of derivatives by the weights, and squared residuals.

    structure : which sums
    energy, forces : {parameter: sums over energies} eV² and {parameter: sums over force components} (eV/Å)²
    sse, n : squared residuals (eV², (eV/Å)²), and numbers of energies and force components
    """

    structure: Structure
    energy: Mapping[str, tuple[Tensor, ...]]
    forces: Mapping[str, tuple[Tensor, ...]]
    sse: tuple[float, float]
    n: tuple[int, int]

    def block(self, name: str, noise_energy: Tensor | float, noise_forces: Tensor | float) -> Eigen:
        """The block of G of one parameter, for σ_E (eV) and σ_F (eV/Å)."""
        pairs = zip(self.energy[name], self.forces[name], strict=True)
        return self.structure.eigen(tuple(e / noise_energy**2 + f / noise_forces**2 for e, f in pairs))


def curvature(
    network: Network,
    graphs: Sequence[Graph],
    structure: Structure,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Curvature:
    """Sums over all energies and force components of labelled graphs; structure by structure, exact."""
    network = copy.deepcopy(network).to(device, dtype).eval()
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    none = {name: value.new_zeros((0, *value.shape), dtype=torch.float64) for name, value in parameters.items()}
    sums = [{name: structure.sums(value) for name, value in none.items()} for _ in range(2)]
    sse, n = [0.0, 0.0], [0, 0]
    for graph in tqdm(graphs, desc="curvature", unit="frame"):
        outputs, derivatives = torch.func.vjp(lambda p, g=graph: _outputs(network, p, g, device, dtype), parameters)[:2]
        errors = torch.cat([graph.energy, graph.forces.flatten()]) - outputs.detach().cpu().double()
        for k, rows in enumerate((slice(0, 1), slice(1, None))):
            sse[k] += float(errors[rows].square().sum())
            n[k] += len(errors[rows])
            units = torch.eye(len(outputs), dtype=outputs.dtype, device=outputs.device)[rows]
            for part in units.split(CHUNK):
                (jacobian,) = torch.func.vmap(derivatives)(part)
                for name, value in jacobian.items():
                    for total, more in zip(sums[k][name], structure.sums(value.double()), strict=True):
                        total += more
    energy, forces = ({name: tuple(t.cpu() for t in totals) for name, totals in part.items()} for part in sums)
    return Curvature(structure, energy, forces, (sse[0], sse[1]), (n[0], n[1]))


def _outputs(network: Network, parameters: dict[str, Tensor], graph: Graph, device: str, dtype: torch.dtype) -> Tensor:
    """(1 + 3n,) energy (eV) and force components (eV/Å) of one structure as a function of the weights."""
    graph = graph.clone().to(device)
    tensors = graph.tensors(dtype, graph.vectors.to(dtype))

    def total(vectors: Tensor) -> tuple[Tensor, Tensor]:
        energy = torch.func.functional_call(network, parameters, (tensors._replace(vectors=vectors),)).energy
        return energy.sum(), energy

    gradient, energy = torch.func.grad(total, has_aux=True)(tensors.vectors)
    forces = forces_from_gradient(gradient, tensors.edge_index, len(tensors.species))
    return torch.cat([energy, forces.flatten().to(energy.dtype)])
