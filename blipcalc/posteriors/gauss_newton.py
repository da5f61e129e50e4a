"""Gauss-Newton matrix of energies and forces over all weights of a network, in a compact form.

    G = σ_E⁻² Σ_E vec J vec Jᵀ + σ_F⁻² Σ_F vec J vec Jᵀ

| symbol | variable |
|---|---|
| J, the derivative of one energy or force component by the weights | ``jacobian``, of one tensor of weights |
| form of G | :class:`Structure`: its diagonal (:class:`Diagonal`), or :class:`~blipcalc.posteriors.kronecker.Kronecker` |

Energies and forces are summed separately, since their noise is fitted afterwards.  (Schraudolph 2002, Neural Computation 14,
1723.)
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

#: number of outputs differentiated at once; each needs as much memory as the weights
CHUNK = 32


class Eigen(NamedTuple):
    """Eigenvalues and axes of a block of G.

    values : (B, m, n), or the shape of the weights: its eigenvalues
    left, right : (B, m, m) U and (B, n, n) V of the axes U ⊗ V; None for the axes of the weights
    """

    values: Tensor
    left: Tensor | None = None
    right: Tensor | None = None


class Structure(Protocol):
    """Form in which a block of G, for one tensor of weights, is stored."""

    def sums(self, jacobian: Tensor) -> tuple[Tensor, ...]:
        """Return sums over O outputs of products of their derivatives (O, *shape), float64, to be added up over the data."""
        ...

    def eigen(self, sums: tuple[Tensor, ...]) -> Eigen:
        """Return the block of G that belongs to such sums."""
        ...


class Diagonal:
    """The diagonal G_kk of a block alone."""

    def sums(self, jacobian: Tensor) -> tuple[Tensor, ...]:
        """Return the sum of the squared derivatives."""
        return (jacobian.square().sum(dim=0),)

    def eigen(self, sums: tuple[Tensor, ...]) -> Eigen:
        """Return the sums as eigenvalues."""
        return Eigen(sums[0])


@dataclass(frozen=True)
class Curvature:
    """Sums from one pass over the data: products of derivatives by the weights, and squared residuals.

    structure : form of the sums
    energy, forces : {parameter: sums over energies} eV² and {parameter: sums over force components} (eV/Å)²
    sse, n : squared residuals (eV², (eV/Å)²), and numbers of energies and force components
    """

    structure: Structure
    energy: Mapping[str, tuple[Tensor, ...]]
    forces: Mapping[str, tuple[Tensor, ...]]
    sse: tuple[float, float]
    n: tuple[int, int]

    def block(self, name: str, noise_energy: Tensor | float, noise_forces: Tensor | float) -> Eigen:
        """Return the block of G of one parameter, for σ_E (eV) and σ_F (eV/Å)."""
        pairs = zip(self.energy[name], self.forces[name], strict=True)
        return self.structure.eigen(tuple(e / noise_energy**2 + f / noise_forces**2 for e, f in pairs))


def curvature(
    network: Network,
    graphs: Sequence[Graph],
    structure: Structure,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Curvature:
    """Sum over all energies and force components of labelled graphs, one structure at a time, exactly."""
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
    """Return energy (eV) and force components (eV/Å) of one structure as a function of the weights, (1 + 3n,)."""
    graph = graph.clone().to(device)
    tensors = graph.tensors(dtype, graph.vectors.to(dtype))

    def total(vectors: Tensor) -> tuple[Tensor, Tensor]:
        energy = torch.func.functional_call(network, parameters, (tensors._replace(vectors=vectors),)).energy
        return energy.sum(), energy

    gradient, energy = torch.func.grad(total, has_aux=True)(tensors.vectors)
    forces = forces_from_gradient(gradient, tensors.edge_index, len(tensors.species))
    return torch.cat([energy, forces.flatten().to(energy.dtype)])
