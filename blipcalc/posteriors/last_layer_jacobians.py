"""Derivatives of energies and forces by the weights of the last layers, in one pass over the data.

The energy is linear in the last weights w: φ = ∂E/∂w needs only the network below them, and J = -∂φ/∂r one forward
pass for each coordinate of a structure, for any number of weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from blipcalc.core.contracts import Draws, Network
from blipcalc.core.demanded import demanded
from blipcalc.core.evaluate import PAIRS, Evaluator
from blipcalc.core.graph import Graph, GraphTensors
from blipcalc.posteriors.last_layer import Gram, flat, last_weights

Features = Callable[[Tensor], Tensor]
#: errors and derivatives of one structure, see :func:`jacobians`
Outputs = tuple[Tensor, Tensor, tuple[Tensor, Tensor]]


def accumulate(outputs: Iterable[Outputs]) -> Gram:
    """Sum over all energies and forces of the structures."""
    energy = forces = torch.zeros((), dtype=torch.float64)
    sse, counts = [0.0, 0.0], [0, 0]
    for energy_error, forces_error, (of_energy, of_forces) in outputs:
        rows = of_forces.flatten(1)
        energy = energy + of_energy @ of_energy.T
        forces = forces + rows @ rows.T
        for k, error in enumerate((energy_error, forces_error)):
            sse[k] += float(error.square().sum())
            counts[k] += error.numel()
    return Gram(energy, forces, sse[0], sse[1], counts[0], counts[1])


def jacobians(network: Network, graphs: Sequence[Graph], device: str = "cpu") -> Iterator[Outputs]:
    """Yield the errors of energies and forces of each structure, and their derivatives by w.

    errors (1,) eV and (n, 3) eV/Å; derivatives φ (P, 1) and J (P, n, 3)
    """
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
            graph.forces - demanded(samples.forces, "forces")[0].cpu(),
            (phi[:, None].cpu(), jacobian.cpu()),
        )


def _directions(graph: Graph, coordinates: range) -> Tensor:
    """Return the change of every pair vector with each coordinate 3 · atom + axis, (coordinates, E, 3)."""
    chosen = torch.arange(coordinates.start, coordinates.stop, device=graph.positions.device)
    moves = graph.positions.new_zeros(len(chosen), graph.edge_index.shape[1], 3)
    source, target = graph.edge_index
    atom = chosen[:, None] // 3
    sign = (source == atom).to(moves) - (target == atom).to(moves)
    moves.scatter_(2, (chosen % 3)[:, None, None].expand(-1, moves.shape[1], 1), sign[..., None])
    return moves
