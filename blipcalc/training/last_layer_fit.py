"""Fits of posteriors over the last layers: one pass over data, no retraining.

The energy is linear in the last weights w: φ = ∂E/∂w takes no more than the network below them, and J = -∂φ/∂r one pass
forward for each coordinate of a structure, however many weights there are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from blipcalc.core.contracts import Draws
from blipcalc.core.evaluate import PAIRS, Evaluator
from blipcalc.core.graph import Graph, GraphTensors
from blipcalc.posteriors.last_layer import (
    Gram,
    LastLayerPosterior,
    best_alpha,
    flat,
    laplace,
    last_weights,
    llpr,
    rescaled,
)
from blipcalc.posteriors.pops import PopsPosterior, pops
from blipcalc.process import plain_state

Features = Callable[[Tensor], Tensor]
#: of a structure, see :func:`jacobians`
Outputs = tuple[Tensor, Tensor, tuple[Tensor, Tensor]]


@plain_state()
def fit_last_layer(
    name: str, network: nn.Module, train: Sequence[Graph], validation: Sequence[Graph], device: str = "cpu"
) -> tuple[LastLayerPosterior | PopsPosterior, dict[str, Any]]:
    """The posterior of a trained network, ``laplace``, ``llpr`` or ``pops``, and the figures of its fit.

    train : labelled graphs that the curvature, and the box of POPS, come from; validation : those that α of LLPR comes from

    For POPS, which goes over them three times, the derivatives of all labels stay in memory: 8 P bytes for each of them.
    """
    weights = last_weights(network)
    outputs: Iterable[Outputs] = jacobians(network, train, device)
    if name == "pops":
        outputs = list(outputs)
    gram = accumulate(outputs)
    if name == "llpr":
        return _scaled(llpr(weights, gram), network, validation, device)
    posterior, figures = laplace(weights, gram)
    if name == "laplace":
        return posterior, figures
    noise = figures["noise_energy"], figures["noise_forces"]
    labels = [
        (of_label.flatten(1), error.flatten(), sigma)
        for *errors, of_structure in outputs
        for of_label, error, sigma in zip(of_structure, errors, noise, strict=True)
    ]
    return pops(posterior, labels), figures


def _scaled(
    posterior: LastLayerPosterior, network: nn.Module, validation: Sequence[Graph], device: str
) -> tuple[LastLayerPosterior, dict[str, Any]]:
    """LLPR with the α of best likelihood on the forces of validation."""
    errors, variances = [], []
    for energy, forces, jacobian in jacobians(network, validation, device):
        del energy
        spread = jacobian[1].flatten(1).T @ posterior.factor  # rows: force components
        errors.append(forces.flatten())
        variances.append(spread.square().sum(dim=1))
    alpha = best_alpha(torch.cat(errors), torch.cat(variances))
    return rescaled(posterior, alpha), {"alpha": alpha}


def accumulate(outputs: Iterable[Outputs]) -> Gram:
    """Sums over all energies and forces of the structures."""
    energy = forces = torch.zeros((), dtype=torch.float64)
    sse, counts = [0.0, 0.0], [0, 0]
    for energy_error, forces_error, (of_energy, of_forces) in outputs:
        rows = of_forces.flatten(1)
        energy = energy + of_energy @ of_energy.T
        forces = forces + rows @ rows.T
        for k, error in enumerate((energy_error, forces_error)):
            sse[k] += float(error.square().sum())
            counts[k] += error.numel()
    return Gram(energy, forces, *sse, *counts)


def jacobians(network: nn.Module, graphs: Sequence[Graph], device: str = "cpu") -> Iterator[Outputs]:
    """Of structures: errors of energies (1,) eV and forces (n, 3) eV/Å, and their derivatives φ (P, 1) and J (P, n, 3) by w."""
    network = copy.deepcopy(network).to(device, torch.float64).eval().requires_grad_(False)
    evaluator, one = Evaluator(network), Draws(1)
    weights = {name: value.to(device) for name, value in last_weights(network).items()}
    state = dict(evaluator.state)
    for graph in tqdm(graphs, desc="last layer", unit="structure"):
        placed = graph.clone().to(device)
        vectors = placed.edge_vectors()
        tensors = placed.tensors(torch.float64, vectors)

        def features(at: Tensor, tensors: GraphTensors = tensors) -> Tensor:
            def energy(last: dict[str, Tensor]) -> Tensor:
                structure = tensors._replace(vectors=at)
                return torch.func.functional_call(network, {**state, **last}, (structure,)).energy.sum()

            return flat(torch.func.grad(energy)(weights))

        def slope(direction: Tensor, vectors: Tensor = vectors, features: Features = features) -> Tensor:
            return torch.func.jvp(features, (vectors,), (direction,))[1]

        phi, chunk, rows = features(vectors), max(1, PAIRS // max(1, len(vectors))), []
        for start in range(0, 3 * placed.num_nodes, chunk):
            directions = _directions(placed, range(start, min(start + chunk, 3 * placed.num_nodes)))
            rows.append(
                torch.func.vmap(slope)(directions)
                if network.supports_vmap
                else torch.stack([slope(direction) for direction in directions])
            )
        samples = evaluator(one, graph)
        # F = -∂E/∂r
        jacobian = -torch.cat(rows).T.reshape(len(phi), -1, 3)
        yield (
            graph.energy - samples.energy[0].cpu(),
            graph.forces - samples.forces[0].cpu(),
            (phi[:, None].cpu(), jacobian.cpu()),
        )


def _directions(graph: Graph, coordinates: range) -> Tensor:
    """(coordinates, E, 3) what every pair vector does where a coordinate, 3 · atom + axis, grows."""
    chosen = torch.arange(coordinates.start, coordinates.stop, device=graph.positions.device)
    moves = graph.positions.new_zeros(len(chosen), graph.edge_index.shape[1], 3)
    source, target = graph.edge_index
    atom = chosen[:, None] // 3
    sign = (source == atom).to(moves) - (target == atom).to(moves)
    moves.scatter_(2, (chosen % 3)[:, None, None].expand(-1, moves.shape[1], 1), sign[..., None])
    return moves
