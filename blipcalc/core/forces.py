"""Forces and stress from the derivative of the energy by the edge vectors, the only autograd on geometry.

With g_e = ∂E/∂d_e for the vector d_e = r_source - r_target + shift · cell,

    F_a = Σ_{e: target = a} g_e - Σ_{e: source = a} g_e
    σ   = (1 / V) Σ_e sym(d_e ⊗ g_e)            (eV/Å³, positive under tension, as ASE)

The leaves are the vectors instead of the positions, so that K draws cost one backward pass and the virial costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blipcalc.core.graph import Graph


def forces_from_gradient(gradient: Tensor, edge_index: Tensor, n_atoms: int) -> Tensor:
    """Return the forces (…, N, 3) of an energy gradient (…, E, 3), in the dtype of the gradient."""
    source, target = edge_index
    forces = gradient.new_zeros(*gradient.shape[:-2], n_atoms, 3)
    return forces.index_add(-2, target, gradient).index_add(-2, source, -gradient)


def stress_from_gradient(gradient: Tensor, vectors: Tensor, graph: Graph) -> Tensor:
    """Return the stress (K, S, 3, 3) eV/Å³ of a gradient (K, E, 3) and vectors (E, 3) Å.

    Structures that are not periodic in three directions have no volume and no stress: their rows are NaN.
    """
    virial = 0.5 * (vectors[:, :, None] * gradient[..., None, :] + gradient[..., :, None] * vectors[:, None, :])
    structure = graph.batch[graph.edge_index[1]]
    total = virial.new_zeros(gradient.shape[0], graph.n_structures, 3, 3)
    total = total.index_add(1, structure, virial)
    volume = torch.linalg.det(graph.cell.to(total.dtype)).abs()
    volume = torch.where(graph.pbc.all(dim=1), volume, torch.full_like(volume, torch.nan))
    return total / volume[None, :, None, None]
