"""Fits of posteriors over the last layers: one pass over data, no retraining.

The energy is linear in the last weights w, so φ and J are differences of ordinary evaluations: of the networks whose last
weights are unit vectors, and of the one whose are zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from blipcalc.bayes.last_layer import (
    Gram,
    LastLayerPosterior,
    best_alpha,
    flat,
    laplace,
    last_weights,
    llpr,
    rescaled,
    with_rows,
)
from blipcalc.core.contracts import place_draws
from blipcalc.core.evaluate import Evaluator
from blipcalc.core.graph import Graph

#: structures per evaluation
BATCH = 8


def fit_last_layer(
    name: str, network: nn.Module, train: Sequence[Graph], validation: Sequence[Graph], device: str = "cpu"
) -> tuple[LastLayerPosterior, dict[str, Any]]:
    """The posterior of a trained network, ``laplace`` or ``llpr``, and the figures of its fit.

    train : labelled graphs that the curvature comes from; validation : those that α of LLPR comes from
    """
    weights = last_weights(network)
    gram = accumulate(network, train, device)
    if name == "laplace":
        return laplace(weights, gram)
    posterior = llpr(weights, gram)
    errors, variances = [], []
    for energy, forces, jacobian in jacobians(network, validation, device):
        del energy
        spread = jacobian[1].flatten(1).T @ posterior.factor  # rows: force components
        errors.append(forces.flatten())
        variances.append(spread.square().sum(dim=1))
    alpha = best_alpha(torch.cat(errors), torch.cat(variances))
    return rescaled(posterior, alpha), {"alpha": alpha}


def accumulate(network: nn.Module, graphs: Sequence[Graph], device: str = "cpu") -> Gram:
    """Sums over all energies and forces of the graphs."""
    n = len(flat(last_weights(network)))
    energy, forces = torch.zeros(2, n, n, dtype=torch.float64)
    sse, counts = [0.0, 0.0], [0, 0]
    for energy_error, forces_error, (of_energy, of_forces) in jacobians(network, graphs, device):
        rows = of_forces.flatten(1)
        energy += of_energy @ of_energy.T
        forces += rows @ rows.T
        for k, error in enumerate((energy_error, forces_error)):
            sse[k] += float(error.square().sum())
            counts[k] += error.numel()
    return Gram(energy, forces, *sse, *counts)


def jacobians(
    network: nn.Module, graphs: Sequence[Graph], device: str = "cpu"
) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, Tensor]]]:
    """Of batches: errors of energies (S,) eV and forces (N, 3) eV/Å, and their derivatives (P, S) and (P, N, 3) by w."""
    network = copy.deepcopy(network).to(device, torch.float64).eval().requires_grad_(False)
    weights = last_weights(network)
    mode = flat(weights)
    rows = torch.cat(
        [mode[None], torch.zeros(1, len(mode), dtype=torch.float64), torch.eye(len(mode), dtype=torch.float64)]
    )
    evaluator, draws = Evaluator(network), place_draws(network, with_rows(weights, rows))
    for start in tqdm(range(0, len(graphs), BATCH), desc="last layer", unit="batch"):
        batch = Graph.collate(graphs[start : start + BATCH])
        samples = evaluator(draws, batch)
        energy, forces = samples.energy.cpu(), samples.forces.cpu()
        yield (
            batch.energy - energy[0],
            batch.forces - forces[0],
            (energy[2:] - energy[1], forces[2:] - forces[1]),
        )
