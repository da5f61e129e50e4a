"""One pass over labelled data for the Gauss-Newton matrix of energies and forces, in the form that is kept of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from blipcalc.core.forces import forces_from_gradient
from blipcalc.core.graph import Graph
from blipcalc.posteriors.gaussian import GaussianPosterior
from blipcalc.posteriors.kronecker import Kronecker
from blipcalc.posteriors.laplace import Curvature, Diagonal, LaplaceConfig, Structure
from blipcalc.process import plain_state

#: outputs differentiated at once; each takes as much memory as the weights
CHUNK = 32
#: by their names in the settings
STRUCTURES: dict[str, Structure] = {"diagonal": Diagonal(), "kronecker": Kronecker()}


@plain_state()
def fit_all_weights(
    network: nn.Module,
    train: Sequence[Graph],
    config: LaplaceConfig,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> tuple[GaussianPosterior, dict[str, float]]:
    """The Laplace posterior over all weights of a trained network, and the figures of its fit."""
    mode = {name: value.detach().cpu().clone() for name, value in network.named_parameters()}
    return curvature(network, train, STRUCTURES[config.structure], device, dtype).laplace(mode)


def curvature(
    network: nn.Module,
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
        outputs, derivatives = torch.func.vjp(lambda p, g=graph: _outputs(network, p, g, device, dtype), parameters)
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


def _outputs(
    network: nn.Module, parameters: dict[str, Tensor], graph: Graph, device: str, dtype: torch.dtype
) -> Tensor:
    """(1 + 3n,) energy (eV) and force components (eV/Å) of one structure as a function of the weights."""
    graph = graph.clone().to(device)
    tensors = graph.tensors(dtype, graph.vectors.to(dtype))

    def total(vectors: Tensor) -> tuple[Tensor, Tensor]:
        energy = torch.func.functional_call(network, parameters, (tensors._replace(vectors=vectors),)).energy
        return energy.sum(), energy

    gradient, energy = torch.func.grad(total, has_aux=True)(tensors.vectors)
    forces = forces_from_gradient(gradient, tensors.edge_index, len(tensors.species))
    return torch.cat([energy, forces.flatten().to(energy.dtype)])
