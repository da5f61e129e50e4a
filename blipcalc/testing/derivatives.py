"""Checks of forces, stress and training gradients against central differences, and of smoothness at the cutoff."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from blipcalc.core.contracts import Network
from blipcalc.core.graph import Graph
from blipcalc.testing.comparisons import dtype_of, energies_of, evaluate_one

#: steps of the finite differences (Å, or strain), the best first: truncation limits the large ones, rounding the small
STEPS = (1e-3, 1e-4, 1e-5, 1e-2)


def sweep(
    what: str, exact: np.ndarray, difference: Callable[[float], np.ndarray], absolute: float, relative: float = 0.0
) -> float:
    """Return the error of ``exact`` at the first of :data:`STEPS` within the tolerance; raise where there is none."""
    allowed = absolute + relative * np.abs(exact).max()
    errors = {}
    for step in STEPS:
        errors[step] = float(np.abs(difference(step) - exact).max())
        if errors[step] <= allowed:
            return errors[step]
    raise AssertionError(f"{what} against central differences, error for each step: {errors}, allowed {allowed:.1e}")


def check_forces(model: Network, atoms: Atoms, tolerance: float = 1e-6) -> float:
    """Check that forces are minus the gradient of the energy (eV/Å); return the largest error."""

    def difference(step: float) -> np.ndarray:
        moved = [atoms.copy() for _ in range(6 * len(atoms))]
        for structure, (a, i, end) in zip(moved, np.ndindex(len(atoms), 3, 2), strict=True):
            structure.positions[a, i] += (step, -step)[end]
        energies = energies_of(model, moved).reshape(len(atoms), 3, 2)
        return (energies[..., 1] - energies[..., 0]) / (2 * step)

    return sweep("forces (eV/Å)", evaluate_one(model, atoms).forces, difference, tolerance)


def check_stress(model: Network, atoms: Atoms, tolerance: float = 1e-7) -> float:
    """Check that stress is the derivative of the energy by the strain over the volume (eV/Å³); return the largest error."""

    def difference(step: float) -> np.ndarray:
        stress = np.zeros((3, 3))
        for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
            strain = np.zeros((3, 3))
            strain[i, j] += 0.5 * step
            strain[j, i] += 0.5 * step
            ends = [atoms.copy(), atoms.copy()]
            for sign, strained in zip((1, -1), ends, strict=True):
                strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)
            energies = energies_of(model, ends)
            stress[i, j] = stress[j, i] = (energies[0] - energies[1]) / (2 * step * atoms.get_volume())
        return stress

    return sweep("stress (eV/Å³)", evaluate_one(model, atoms).stress[0], difference, tolerance, relative=1e-5)


def check_cutoff(model: Network, width: float = 1e-5, tolerance: float = 1e-4) -> None:
    """Check that energy (eV) and forces (eV/Å) are continuous when two molecules come within the cutoff of each other."""
    graphs = []
    for distance in (model.cutoff - width, model.cutoff + width):
        left = [[0.0, 0.0, 0.0], [-1.2, 0.5, 0.0], [-0.8, -1.1, 0.3]]
        right = [[distance, 0.0, 0.0], [distance + 1.1, 0.3, 0.2]]
        graphs.append(
            Graph.from_atoms(Atoms(positions=left + right, numbers=np.resize(model.species, 5)), model.cutoff)
        )
    if graphs[0].num_edges != graphs[1].num_edges + 2:
        raise AssertionError(
            f"expected one pair to leave at the cutoff, got {[g.num_edges for g in graphs]} directed pairs"
        )
    inside, outside = (evaluate_one(model, graph) for graph in graphs)
    jump = np.abs(inside.forces - outside.forces).max()
    if not jump <= tolerance:
        raise AssertionError(f"forces jump by {jump:.3e} eV/Å at the cutoff, allowed {tolerance:.0e}")
    jump = np.abs(inside.energy - outside.energy).max()
    work = 2 * width * np.abs(inside.forces[3:]).sum()
    if not jump <= work + 1e-9:
        raise AssertionError(f"energy jumps by {jump:.3e} eV at the cutoff, forces explain {work:.0e}")


def check_force_training(model: Network, atoms: Atoms, tolerance: float = 1e-5) -> None:
    """Check that parameter gradients of a force loss are right, and finite for isolated and symmetric atoms."""
    generator = torch.Generator().manual_seed(3)
    directions = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in model.named_parameters()}
    dtype = dtype_of(model)

    def force_loss(graph: Graph, step: Tensor) -> Tensor:
        parameters = {n: p.detach() + step * directions[n] for n, p in model.named_parameters()}
        vectors = graph.edge_vectors().to(dtype).requires_grad_()
        energy = torch.func.functional_call(model, parameters, (graph.tensors(dtype, vectors),)).energy.sum()
        return torch.autograd.grad(energy, vectors, create_graph=True)[0].square().sum()

    def slope(graph: Graph) -> Tensor:
        step = torch.zeros((), dtype=dtype, requires_grad=True)
        return torch.autograd.grad(force_loss(graph, step), step)[0]

    places = [[x, 0.0, 0.0] for x in (-1.2, 0.0, 1.2, 9.0 * model.cutoff)]
    chain = Graph.from_atoms(Atoms(numbers=[model.species[0]] * 4, positions=places), model.cutoff)
    if not torch.isfinite(slope(chain)):
        raise AssertionError(f"slope of a force loss with symmetric and isolated atoms: {slope(chain)}")
    graph = Graph.from_atoms(atoms, model.cutoff)

    def difference(h: float) -> np.ndarray:
        ends = [force_loss(graph, torch.tensor(sign * h, dtype=dtype)).item() for sign in (1, -1)]
        return np.array((ends[0] - ends[1]) / (2 * h))

    sweep("slope of a force loss", slope(graph).numpy(), difference, tolerance, relative=tolerance)
