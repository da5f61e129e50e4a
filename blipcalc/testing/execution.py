"""Checks of the declared properties of a model: vmap, roles of its layers, float32."""

from __future__ import annotations

import copy

import torch
from ase import Atoms
from torch import nn

from blipcalc.core.contracts import Draws, Network
from blipcalc.core.evaluate import evaluate
from blipcalc.core.graph import Graph
from blipcalc.testing.comparisons import close, dtype_of, evaluate_one, perturbed, same


def check_vmap(model: Network, atoms: Atoms, n: int = 3, tolerance: float = 1e-12) -> None:
    """Check, where a model declares ``supports_vmap``, that vmap over n perturbed copies of its parameters equals the loop."""
    if not model.supports_vmap:
        return
    copies = [dict(perturbed(model, seed=seed).named_parameters()) for seed in range(1, n + 1)]
    draws = Draws(n, {name: torch.stack([c[name].detach() for c in copies]) for name in copies[0]})
    graph = Graph.from_atoms(atoms, model.cutoff)
    loop, vmap = (evaluate(model, draws, graph, strategy=strategy) for strategy in ("loop", "vmap"))
    for name in ("energy", "forces"):
        close(f"{name} under vmap", getattr(vmap, name), getattr(loop, name), tolerance)


def check_layer_roles(model: Network, atoms: Atoms) -> None:
    """Check that ``layer_roles`` names every ``nn.Linear``, and that the rows of each belong to its role."""
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
        model(graph.tensors(dtype_of(model)))
    finally:
        for hook in hooks:
            hook.remove()
    ranks = {"node": (len(atoms), 2), "edge": (graph.num_edges, 2), "vector": (len(atoms), 3)}
    for name, shape in seen.items():
        if (shape[0], len(shape)) != ranks[roles[name]]:
            raise AssertionError(f"{name} is declared {roles[name]!r}, but its input has shape {shape}, {graph}")


def check_last_layers(model: Network, atoms: Atoms, tolerance: float = 1e-10) -> None:
    """Check that the energy is linear in the weights of the layers in ``last_layers``."""
    names = [f"{layer}.{kind}" for layer in model.last_layers() for kind in ("weight", "bias")]
    first = {name: value.detach() for name, value in model.named_parameters() if name in names}
    if not first:
        return
    second = {name: value.detach() for name, value in perturbed(model, seed=5).named_parameters() if name in names}
    both = {name: 3.0 * first[name] - 2.0 * second[name] for name in first}
    draws = Draws(3, {name: torch.stack([first[name], second[name], both[name]]) for name in first})
    energy, other, mixed = evaluate(model, draws, Graph.from_atoms(atoms, model.cutoff), forces=False).energy
    close("energy of mixed last weights", mixed, 3.0 * energy - 2.0 * other, tolerance)


def check_precision(model: Network, atoms: Atoms, single: Network | None = None, tolerance: float = 1e-4) -> None:
    """Check that ``single``, by default a copy of the model in float32, agrees with the model in float64."""
    single = copy.deepcopy(model).float() if single is None else single
    same("in float32", evaluate_one(single, atoms), evaluate_one(model, atoms), tolerance)
