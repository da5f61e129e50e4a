"""Helpers of the checks: structures, evaluations, and comparisons that report the deviation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import ArrayLike

from blipcalc.core.contracts import Draws, Network
from blipcalc.core.demanded import demanded
from blipcalc.core.evaluate import evaluate
from blipcalc.core.graph import Graph


class Evaluation(NamedTuple):
    """Energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³ (NaN without a volume), numpy float64."""

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray


def evaluate_one(model: Network, structure: Atoms | Graph) -> Evaluation:
    """Return energy, forces and stress of the network without draws."""
    graph = structure if isinstance(structure, Graph) else Graph.from_atoms(structure, model.cutoff)
    samples = evaluate(model, Draws(1), graph, stress=True)
    forces, stress = demanded(samples.forces, "forces"), demanded(samples.stress, "a stress")
    return Evaluation(samples.energy[0].numpy(), forces[0].numpy(), stress[0].numpy())


def energies_of(model: Network, structures: Sequence[Atoms]) -> np.ndarray:
    """Return energies (S,) eV from one batch without derivatives."""
    graph = Graph.collate([Graph.from_atoms(atoms, model.cutoff) for atoms in structures])
    return evaluate(model, Draws(1), graph, forces=False).energy[0].numpy()


def dtype_of(model: Network) -> torch.dtype:
    """Return the dtype of the parameters."""
    return next(model.parameters()).dtype


def perturbed(model: Network, scale: float = 0.1, seed: int = 0) -> Network:
    """Return a copy with ``scale`` · N(0, 1) added to every parameter, so that zero biases hide no fault."""
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise.to(parameter))
    return model


def default_structures(species: Sequence[int]) -> list[Atoms]:
    """Return a molecule, a triclinic crystal, a slab without a third cell vector and a wire, of the elements of the model."""
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(*[[0.0, 1.7]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    molecule = Atoms(positions=(grid + rng.uniform(-0.25, 0.25, grid.shape))[:5], numbers=[1] * 5)
    cell = np.array([[3.6, 0.0, 0.0], [0.7, 3.3, 0.0], [-0.4, 0.5, 3.9]])
    crystal = Atoms(positions=grid[[0, 3, 5, 6]] + rng.uniform(-0.2, 0.2, (4, 3)), numbers=[1] * 4, cell=cell, pbc=True)
    slab = crystal.copy()
    slab.set_cell(np.diag([1.0, 1.0, 0.0]) @ cell)
    slab.pbc = [True, True, False]
    wire = crystal[:2]
    wire.pbc = [False, False, True]
    for atoms in (molecule, crystal, slab, wire):
        atoms.numbers = np.resize(species, len(atoms))
    return [molecule, crystal, slab, wire]


def close(what: str, got: ArrayLike, expected: ArrayLike, tolerance: float) -> None:
    """Raise unless |got - expected| ≤ tolerance · max(1, |expected|), with NaN at the same places."""
    got, expected = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if got.shape != expected.shape or (np.isnan(got) != np.isnan(expected)).any():
        raise AssertionError(f"{what}: got {got}, expected {expected}")
    worst = np.nanmax(np.abs(got - expected), initial=0.0)
    size = max(1.0, np.nanmax(np.abs(expected), initial=0.0))
    if not worst <= tolerance * size:
        raise AssertionError(f"{what}: differs by {worst:.3e}, allowed {tolerance:.0e} x {size:.3g}")


def same(what: str, got: Evaluation, expected: Evaluation, tolerance: float) -> None:
    """Compare every field of two evaluations by :func:`close`."""
    for name in Evaluation._fields:
        close(f"{name} {what}", getattr(got, name), getattr(expected, name), tolerance)
