"""Differentiable training step: energies, forces and penalty of R draws as one function of tensors.

``torch.func.grad`` with respect to the edge vectors is *inside* the function, so that ``torch.compile`` sees forward, forces
and their derivative as one graph; a compiled energy alone gives no gradient of a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from blipcalc.core.compiled import Checked
from blipcalc.core.contracts import Network
from blipcalc.core.forces import forces_from_gradient
from blipcalc.core.graph import GraphTensors


class StepOutput(NamedTuple):
    """Energies, forces, penalty and variances of R draws for a batch.

    energy (R, S) eV, forces (R, N, 3) eV/Å, penalty (terms, 2) as sums and counts; with mean-variance heads energy_var (R, S) eV²
    and forces_cov (R, N, 3, 3) (eV/Å)², else None
    """

    energy: Tensor
    forces: Tensor
    penalty: Tensor
    energy_var: Tensor | None = None
    forces_cov: Tensor | None = None


StepFunction = Callable[..., StepOutput]


def step_function(model: Network, *, stacked: bool, compiled: bool) -> StepFunction:
    """Return the function ``(parameters, overrides, *graph tensors) -> StepOutput``.

    Parameters
    ----------
    stacked : whether the overrides carry a leading axis R (``vmap``, or a loop for models without); without it R is 1
    compiled : whether ``torch.compile`` is used, with dynamic shapes; the result is compared with the plain function once

    raises : CompilationError, with ``compiled``, without a compiler or for wrong energies, forces or gradients
    """

    def single(
        parameters: Mapping[str, Tensor], overrides: Mapping[str, Tensor], graph: GraphTensors
    ) -> tuple[Tensor, ...]:
        def total(vectors: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            state = {**parameters, **overrides}
            output = torch.func.functional_call(model, state, (graph._replace(vectors=vectors),))
            penalty = output.penalty if output.penalty is not None else output.energy.new_zeros(0, 2)
            noise = (value for value in (output.energy_var, output.forces_cov) if value is not None)
            return output.energy.sum(), (output.energy, penalty, *noise)

        gradient, (energy, penalty, *noise) = torch.func.grad(total, has_aux=True)(graph.vectors)
        forces = forces_from_gradient(gradient, graph.edge_index, graph.species.shape[0])
        return energy, forces, penalty, *noise

    def step(
        parameters: Mapping[str, Tensor],
        overrides: Mapping[str, Tensor],
        vectors: Tensor,
        edge_index: Tensor,
        species: Tensor,
        batch: Tensor,
        n_structures: int,
    ) -> StepOutput:
        graph = GraphTensors(vectors, edge_index, species, batch, n_structures)
        if not stacked:
            values = tuple(value[None] for value in single(parameters, overrides, graph))
        elif model.supports_vmap:
            values = torch.func.vmap(single, in_dims=(None, 0, None))(parameters, overrides, graph)
        else:
            n = next(iter(overrides.values())).shape[0]
            draws = [single(parameters, {name: value[r] for name, value in overrides.items()}, graph) for r in range(n)]
            values = tuple(torch.stack(parts) for parts in zip(*draws, strict=True))
        energy, forces, penalty, *noise = values
        return StepOutput(energy, forces, penalty.mean(dim=0), *noise)

    return Checked(step, what="the compiled training step", remedy="train with compile=False") if compiled else step
