"""A contract suite for models: what every :class:`~blipcalc.core.contracts.EnergyModel` promises.

Each ``check_*`` function raises ``AssertionError`` with the numbers.  The authors of a model inherit a test class::

    class TestMyModel(ModelContract):
        def make_model(self, dtype):
            return MyModel(...).to(dtype)

Tolerances, for float64: symmetries and batching 1e-10 relative; forces 1e-6 eV/Å and stress 1e-7 eV/Å³ + 1e-5 relative,
against a sweep of central differences; 1e-4 eV/Å for the jump of a force at the cutoff; 1e-12 relative for ``vmap``
against a loop; 1e-4 relative for float32 against float64.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from blipcalc.core.contracts import Draws, EnergyModel
from blipcalc.core.evaluate import evaluate
from blipcalc.core.graph import Graph

#: steps of the finite differences (Å, or strain), the best first: truncation rules the large ones, rounding the small
STEPS = (1e-3, 1e-4, 1e-5, 1e-2)


class Evaluation(NamedTuple):
    """Energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³ (NaN without a volume), numpy float64."""

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray


def evaluate_one(model: nn.Module, structure: Atoms | Graph) -> Evaluation:
    """Energy, forces and stress of the network as it stands."""
    graph = structure if isinstance(structure, Graph) else Graph.from_atoms(structure, model.cutoff)
    samples = evaluate(model, Draws(1), graph, stress=True)
    return Evaluation(samples.energy[0].numpy(), samples.forces[0].numpy(), samples.stress[0].numpy())


def _energies(model: nn.Module, structures: Sequence[Atoms]) -> np.ndarray:
    """(S,) eV, in one batch without derivatives."""
    graph = Graph.collate([Graph.from_atoms(atoms, model.cutoff) for atoms in structures])
    return evaluate(model, Draws(1), graph, forces=False).energy[0].numpy()


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def perturbed(model: nn.Module, scale: float = 0.1, seed: int = 0) -> nn.Module:
    """A copy with ``scale`` · N(0, 1) added to every parameter, so that zero biases hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += (scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)).to(parameter)
    return model


def default_structures(species: Sequence[int]) -> list[Atoms]:
    """A molecule, a triclinic crystal, a slab without a third cell vector and a wire, of the elements of the model."""
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


def _close(what: str, got: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Raise unless |got - expected| ≤ tolerance · max(1, |expected|), and unless both are NaN at the same places."""
    got, expected = np.asarray(got, dtype=float), np.asarray(expected, dtype=float)
    if got.shape != expected.shape or (np.isnan(got) != np.isnan(expected)).any():
        raise AssertionError(f"{what}: got {got}, expected {expected}")
    worst = np.nanmax(np.abs(got - expected), initial=0.0)
    size = max(1.0, np.nanmax(np.abs(expected), initial=0.0))
    if not worst <= tolerance * size:
        raise AssertionError(f"{what}: differs by {worst:.3e}, allowed {tolerance:.0e} x {size:.3g}")


def _same(what: str, got: Evaluation, expected: Evaluation, tolerance: float) -> None:
    for name in Evaluation._fields:
        _close(f"{name} {what}", getattr(got, name), getattr(expected, name), tolerance)


def check_protocol(model: nn.Module, atoms: Atoms) -> None:
    """Attributes are there; energies are finite, float64, of the right shape, add up, and come out twice the same."""
    if missing := [n for n in (*EnergyModel.__annotations__, "layer_roles", "forward") if n not in dir(model)]:
        raise AssertionError(f"{type(model).__name__} is not an EnergyModel; it lacks {missing}")
    tensors = Graph.from_atoms(atoms, model.cutoff).tensors(_dtype(model))
    first, second = model(tensors), model(tensors)
    if first.energy.shape != (1,) or first.energies.shape != (len(atoms),):
        raise AssertionError(
            f"energy {tuple(first.energy.shape)}, energies {tuple(first.energies.shape)}: wrong shapes"
        )
    if first.energy.dtype != torch.float64 or first.energies.dtype != torch.float64:
        raise AssertionError(f"energies must be summed in float64, got {first.energy.dtype}, {first.energies.dtype}")
    if not (torch.isfinite(first.energies).all() and torch.equal(first.energies, second.energies)):
        raise AssertionError(f"energies must be finite and repeatable: {first.energies}, then {second.energies}")
    _close("energy against the sum of energies", first.energy.item(), first.energies.sum().item(), 1e-12)


def check_symmetries(model: nn.Module, atoms: Atoms, tolerance: float = 1e-10) -> None:
    """Translation, rotation, reflection and permutation leave the energy; forces and stress turn with the structure."""
    rng = np.random.default_rng(0)
    energy, forces, stress = reference = evaluate_one(model, atoms)
    moved = atoms.copy()
    moved.positions += rng.normal(size=3)
    _same("after a translation", evaluate_one(model, moved), reference, tolerance)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    for what, turn in (("rotation", rotation), ("reflection", -rotation)):
        moved.set_cell(atoms.cell.array @ turn.T)
        moved.positions = atoms.positions @ turn.T
        turned = Evaluation(energy, forces @ turn.T, turn @ stress @ turn.T)
        _same(f"after a {what}", evaluate_one(model, moved), turned, tolerance)
    order = rng.permutation(len(atoms))
    permuted = Evaluation(energy, forces[order], stress)
    _same("after a permutation", evaluate_one(model, atoms[order]), permuted, tolerance)


def check_lattice_shifts(model: nn.Module, atoms: Atoms, tolerance: float = 1e-10) -> None:
    """Atoms moved by lattice vectors are the same atoms."""
    counts = np.random.default_rng(1).integers(-3, 4, size=(len(atoms), 3)) * atoms.pbc
    moved = atoms.copy()
    moved.positions += counts @ atoms.cell.array
    _same("after lattice shifts", evaluate_one(model, moved), evaluate_one(model, atoms), tolerance)


def check_batch(model: nn.Module, structures: Sequence[Atoms], tolerance: float = 1e-10) -> None:
    """A batch gives what its structures give alone."""
    batch = evaluate_one(model, Graph.collate([Graph.from_atoms(a, model.cutoff) for a in structures]))
    singles = [evaluate_one(model, a) for a in structures]
    joined = Evaluation(*(np.concatenate(values) for values in zip(*singles, strict=True)))
    _same("in a batch", batch, joined, tolerance)


def _sweep(what: str, exact: np.ndarray, difference, absolute: float, relative: float = 0.0) -> float:
    """The error of ``exact`` at the first of :data:`STEPS` that is within the tolerance; raises where none is."""
    allowed = absolute + relative * np.abs(exact).max()
    errors = {}
    for step in STEPS:
        errors[step] = float(np.abs(difference(step) - exact).max())
        if errors[step] <= allowed:
            return errors[step]
    raise AssertionError(f"{what} against central differences, error for each step: {errors}, allowed {allowed:.1e}")


def check_forces(model: nn.Module, atoms: Atoms, tolerance: float = 1e-6) -> float:
    """Forces are minus the gradient of the energy (eV/Å); returns the largest error."""

    def difference(step: float) -> np.ndarray:
        moved = [atoms.copy() for _ in range(6 * len(atoms))]
        for structure, (a, i, end) in zip(moved, np.ndindex(len(atoms), 3, 2), strict=True):
            structure.positions[a, i] += (step, -step)[end]
        energies = _energies(model, moved).reshape(len(atoms), 3, 2)
        return (energies[..., 1] - energies[..., 0]) / (2 * step)

    return _sweep("forces (eV/Å)", evaluate_one(model, atoms).forces, difference, tolerance)


def check_stress(model: nn.Module, atoms: Atoms, tolerance: float = 1e-7) -> float:
    """Stress is the derivative of the energy by the strain, over the volume (eV/Å³); returns the largest error."""

    def difference(step: float) -> np.ndarray:
        stress = np.zeros((3, 3))
        for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
            strain = np.zeros((3, 3))
            strain[i, j] += 0.5 * step
            strain[j, i] += 0.5 * step
            ends = [atoms.copy(), atoms.copy()]
            for sign, strained in zip((1, -1), ends, strict=True):
                strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)
            energies = _energies(model, ends)
            stress[i, j] = stress[j, i] = (energies[0] - energies[1]) / (2 * step * atoms.get_volume())
        return stress

    return _sweep("stress (eV/Å³)", evaluate_one(model, atoms).stress[0], difference, tolerance, relative=1e-5)


def check_cutoff(model: nn.Module, width: float = 1e-5, tolerance: float = 1e-4) -> None:
    """Energy (eV) and forces (eV/Å) are continuous when two molecules come within the cutoff of each other."""
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


def check_isolated_atoms(model: nn.Module, tolerance: float = 1e-10) -> None:
    """An atom without neighbours has a finite energy and no force; far atoms do not know each other."""
    singles = []
    for number in model.species:
        result = evaluate_one(model, Atoms(numbers=[number], positions=[[0.3, -0.2, 0.1]]))
        if not np.isfinite(result.energy).all() or np.abs(result.forces).max() != 0.0:
            raise AssertionError(f"isolated atom Z={number}: energy {result.energy}, forces {result.forces}")
        singles.append(result.energy[0])
    apart = [[4.0 * model.cutoff * i, 0.0, 0.0] for i in range(len(singles))]
    together = evaluate_one(model, Atoms(numbers=list(model.species), positions=apart))
    _close("energy of far atoms", together.energy, np.array([sum(singles)]), tolerance)
    _close("forces of far atoms", together.forces, np.zeros((len(singles), 3)), 0.0)


def check_supercell(model: nn.Module, tolerance: float = 1e-10) -> None:
    """Cells of one and two atoms, smaller than the cutoff, equal their supercells per cell."""
    cell = 0.5 * model.cutoff * np.array([[1.0, 0.0, 0.0], [0.16, 0.96, 0.0], [0.08, -0.12, 1.04]])
    one = Atoms(numbers=[model.species[0]], positions=[[0.1, 0.2, 0.3]], cell=cell, pbc=True)
    two = one + Atoms(numbers=[model.species[-1]], scaled_positions=[[0.45, 0.6, 0.55]], cell=cell)
    for atoms, repeats in ((one, (2, 3)), (two, (2,))):
        single = evaluate_one(model, atoms)
        for n in repeats:
            tiled = Evaluation(single.energy * n**3, np.tile(single.forces, (n**3, 1)), single.stress)
            _same(f"of {len(atoms)} atoms repeated {n} times", evaluate_one(model, atoms.repeat(n)), tiled, tolerance)


def check_vmap(model: nn.Module, atoms: Atoms, n: int = 3, tolerance: float = 1e-12) -> None:
    """Where a model declares ``supports_vmap``, vmap over n perturbed copies of its parameters equals the loop."""
    if not model.supports_vmap:
        return
    copies = [dict(perturbed(model, seed=seed).named_parameters()) for seed in range(1, n + 1)]
    draws = Draws(n, {name: torch.stack([c[name].detach() for c in copies]) for name in copies[0]})
    graph = Graph.from_atoms(atoms, model.cutoff)
    loop, vmap = (evaluate(model, draws, graph, strategy=strategy) for strategy in ("loop", "vmap"))
    for name in ("energy", "forces"):
        _close(f"{name} under vmap", getattr(vmap, name), getattr(loop, name), tolerance)


def check_layer_roles(model: nn.Module, atoms: Atoms) -> None:
    """``layer_roles`` names every ``nn.Linear``, and the rows that each sees are those of its role."""
    graph = Graph.from_atoms(atoms, model.cutoff)
    roles, modules = model.layer_roles(), dict(model.named_modules())
    linear = {name for name, module in modules.items() if isinstance(module, nn.Linear)}
    if set(roles) != linear:
        raise AssertionError(
            f"no nn.Linear: {sorted(set(roles) - linear)}; without a role: {sorted(linear - set(roles))}"
        )
    seen: dict[str, tuple[int, ...]] = {}
    hooks = [modules[n].register_forward_pre_hook(lambda _, x, n=n: seen.update({n: tuple(x[0].shape)})) for n in roles]
    try:
        model(graph.tensors(_dtype(model)))
    finally:
        for hook in hooks:
            hook.remove()
    ranks = {"node": (len(atoms), 2), "edge": (graph.num_edges, 2), "vector": (len(atoms), 3)}
    for name, shape in seen.items():
        if (shape[0], len(shape)) != ranks[roles[name]]:
            raise AssertionError(f"{name} is declared {roles[name]!r}, but its input has shape {shape}, {graph}")


def check_precision(model: nn.Module, atoms: Atoms, single: nn.Module | None = None, tolerance: float = 1e-4) -> None:
    """``single``, by default a copy of the model in float32, agrees with the model in float64."""
    single = copy.deepcopy(model).float() if single is None else single
    _same("in float32", evaluate_one(single, atoms), evaluate_one(model, atoms), tolerance)


def check_force_training(model: nn.Module, atoms: Atoms, tolerance: float = 1e-5) -> None:
    """Parameter gradients of a force loss are right along one direction, and finite at isolated and symmetric atoms."""
    generator = torch.Generator().manual_seed(3)
    directions = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in model.named_parameters()}
    dtype = _dtype(model)

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

    _sweep("slope of a force loss", slope(graph).numpy(), difference, tolerance, relative=tolerance)


class ModelContract:
    """Tests that a model class inherits; ``make_model`` is all that has to be written."""

    def make_model(self, dtype: torch.dtype) -> nn.Module:
        """The model under test, small, with weights from a fixed seed."""
        raise NotImplementedError("make_model(dtype) must return the model to test")

    def structures(self) -> list[Atoms]:
        """Structures of elements that the model knows; at least one with a volume."""
        return default_structures(self.make_model(torch.float64).species)

    def model(self) -> nn.Module:
        """The model in float64 with every parameter perturbed."""
        return perturbed(self.make_model(torch.float64))

    def _each(self, check) -> None:
        model = self.model()
        for atoms in self.structures():
            check(model, atoms)

    def test_protocol(self) -> None:
        self._each(check_protocol)

    def test_symmetries(self) -> None:
        self._each(check_symmetries)

    def test_lattice_shifts(self) -> None:
        self._each(check_lattice_shifts)

    def test_batch(self) -> None:
        check_batch(self.model(), self.structures())

    def test_forces(self) -> None:
        self._each(check_forces)

    def test_stress(self) -> None:
        model = self.model()
        for atoms in (a for a in self.structures() if a.pbc.all()):
            check_stress(model, atoms)

    def test_cutoff(self) -> None:
        check_cutoff(self.model())

    def test_isolated_atoms(self) -> None:
        check_isolated_atoms(self.model())

    def test_supercell(self) -> None:
        check_supercell(self.model())

    def test_vmap(self) -> None:
        self._each(check_vmap)
        model = self.model()
        check_vmap(model, Atoms(numbers=[model.species[0]], positions=[[0.0, 0.0, 0.0]]))

    def test_layer_roles(self) -> None:
        self._each(check_layer_roles)

    def test_precision(self) -> None:
        single = perturbed(self.make_model(torch.float32))
        self._each(lambda model, atoms: check_precision(model, atoms, single))

    def test_force_training(self) -> None:
        check_force_training(self.model(), self.structures()[0])
