"""Conversion of network outputs to energies, the end of every model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from blipcalc.core.contracts import ModelOutput
from blipcalc.core.graph import GraphTensors
from blipcalc.nn.scatter import segment_sum


class AtomicEnergies(nn.Module):
    """Network outputs as energies per atom and per structure.

        E_i = E0[Z_i] + scale · y_i,    E = Σ_i E_i

    | symbol | variable |
    |---|---|
    | y_i | ``outputs`` (N,), order one |
    | E0 | ``reference`` (n_species,) eV, per element |
    | scale | ``scale`` eV |

    Sums are in float64 for networks of any dtype: in float32 the total energy of a large system loses meV.
    """

    reference: Tensor
    scale: Tensor

    def __init__(self, n_species: int) -> None:
        super().__init__()
        self.register_buffer("reference", torch.zeros(n_species, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the module, but stay in float64."""
        reference, scale = self.reference, self.scale
        super()._apply(fn, recurse)
        # only the device of the moved ones is used: a detour through float32 would cost 1e-4 eV of a reference energy
        self.reference, self.scale = reference.to(self.reference.device), scale.to(self.scale.device)
        return self

    def set(self, reference: Mapping[int, float], scale: float, species: Sequence[int]) -> None:
        """Set the reference energies (eV, per atomic number) and the scale (eV)."""
        values = torch.tensor([reference[z] for z in species], dtype=torch.float64)
        self.reference.copy_(values)
        self.scale.fill_(float(scale))

    def forward(self, outputs: Tensor, rows: Tensor, graph: GraphTensors, features: Tensor | None) -> ModelOutput:
        """Compute energies (N,) and energy (S,), float64 eV, of outputs and species rows (N,)."""
        energies = self.reference[rows] + self.scale * outputs.double()
        return ModelOutput(segment_sum(energies, graph.batch, graph.n_structures), energies, features)
