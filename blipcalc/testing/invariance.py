"""Checks of invariance: symmetries, lattice vectors, batches, cells, distant atoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from blipcalc.core.contracts import Network
from blipcalc.core.graph import Graph
from blipcalc.testing.comparisons import Evaluation, close, dtype_of, evaluate_one, same

#: required attributes
CONTRACT = ("cutoff", "species", "supports_vmap", "energy_scale", "heads", "layer_roles", "forward")


def check_protocol(model: Network, atoms: Atoms) -> None:
    """Check that attributes exist, and that energies are finite, float64, of the right shape, additive and reproducible."""
    if missing := [n for n in CONTRACT if n not in dir(model)]:
        raise AssertionError(f"{type(model).__name__} is not an EnergyModel; it lacks {missing}")
    tensors = Graph.from_atoms(atoms, model.cutoff).tensors(dtype_of(model))
    first, second = model(tensors), model(tensors)
    if first.energy.shape != (1,) or first.energies.shape != (len(atoms),):
        raise AssertionError(
            f"energy {tuple(first.energy.shape)}, energies {tuple(first.energies.shape)}: wrong shapes"
        )
    if first.energy.dtype != torch.float64 or first.energies.dtype != torch.float64:
        raise AssertionError(f"energies must be summed in float64, got {first.energy.dtype}, {first.energies.dtype}")
    if not (torch.isfinite(first.energies).all() and torch.equal(first.energies, second.energies)):
        raise AssertionError(f"energies must be finite and repeatable: {first.energies}, then {second.energies}")
    close("energy against the sum of energies", first.energy.item(), first.energies.sum().item(), 1e-12)


def check_symmetries(model: Network, atoms: Atoms, tolerance: float = 1e-10) -> None:
    """Check that translation, rotation, reflection and permutation keep the energy, and rotate forces and stress."""
    rng = np.random.default_rng(0)
    energy, forces, stress = reference = evaluate_one(model, atoms)
    moved = atoms.copy()
    moved.positions += rng.normal(size=3)
    same("after a translation", evaluate_one(model, moved), reference, tolerance)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    for what, turn in (("rotation", rotation), ("reflection", -rotation)):
        moved.set_cell(atoms.cell.array @ turn.T)
        moved.positions = atoms.positions @ turn.T
        turned = Evaluation(energy, forces @ turn.T, turn @ stress @ turn.T)
        same(f"after a {what}", evaluate_one(model, moved), turned, tolerance)
    order = rng.permutation(len(atoms))
    permuted = Evaluation(energy, forces[order], stress)
    same("after a permutation", evaluate_one(model, atoms[order]), permuted, tolerance)


def check_lattice_shifts(model: Network, atoms: Atoms, tolerance: float = 1e-10) -> None:
    """Check that atoms moved by lattice vectors are equivalent."""
    counts = np.random.default_rng(1).integers(-3, 4, size=(len(atoms), 3)) * atoms.pbc
    moved = atoms.copy()
    moved.positions += counts @ atoms.cell.array
    same("after lattice shifts", evaluate_one(model, moved), evaluate_one(model, atoms), tolerance)


def check_batch(model: Network, structures: Sequence[Atoms], tolerance: float = 1e-10) -> None:
    """Check that a batch gives the results of its structures alone."""
    batch = evaluate_one(model, Graph.collate([Graph.from_atoms(a, model.cutoff) for a in structures]))
    singles = [evaluate_one(model, a) for a in structures]
    joined = Evaluation(*(np.concatenate(values) for values in zip(*singles, strict=True)))
    same("in a batch", batch, joined, tolerance)


def check_isolated_atoms(model: Network, tolerance: float = 1e-10) -> None:
    """Check that an atom without neighbours has a finite energy and no force, and that distant atoms do not interact."""
    singles = []
    for number in model.species:
        result = evaluate_one(model, Atoms(numbers=[number], positions=[[0.3, -0.2, 0.1]]))
        if not np.isfinite(result.energy).all() or np.abs(result.forces).max() != 0.0:
            raise AssertionError(f"isolated atom Z={number}: energy {result.energy}, forces {result.forces}")
        singles.append(result.energy[0])
    apart = [[4.0 * model.cutoff * i, 0.0, 0.0] for i in range(len(singles))]
    together = evaluate_one(model, Atoms(numbers=list(model.species), positions=apart))
    close("energy of far atoms", together.energy, np.array([sum(singles)]), tolerance)
    close("forces of far atoms", together.forces, np.zeros((len(singles), 3)), 0.0)


def check_supercell(model: Network, tolerance: float = 1e-10) -> None:
    """Check that cells of one and two atoms, smaller than the cutoff, equal their supercells per cell."""
    cell = 0.5 * model.cutoff * np.array([[1.0, 0.0, 0.0], [0.16, 0.96, 0.0], [0.08, -0.12, 1.04]])
    one = Atoms(numbers=[model.species[0]], positions=[[0.1, 0.2, 0.3]], cell=cell, pbc=True)
    two = one + Atoms(numbers=[model.species[-1]], scaled_positions=[[0.45, 0.6, 0.55]], cell=cell)
    for atoms, repeats in ((one, (2, 3)), (two, (2,))):
        single = evaluate_one(model, atoms)
        for n in repeats:
            tiled = Evaluation(single.energy * n**3, np.tile(single.forces, (n**3, 1)), single.stress)
            same(f"of {len(atoms)} atoms repeated {n} times", evaluate_one(model, atoms.repeat(n)), tiled, tolerance)
