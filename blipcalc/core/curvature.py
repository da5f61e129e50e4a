"""Second derivatives of a surface by automatic differentiation: a product with vectors, or the whole matrix.

With q = (u, e), displacements u of the atoms followed by a strain e of atoms and cell,

    d(q) = (d + u_source - u_target) (1 + ε(e)),    H v = Jᵀ ∂²E/∂d² J v + (∂J/∂q v)ᵀ ∂E/∂d,    J = ∂d/∂q

| symbol | variable | meaning |
|---|---|---|
| d | ``vectors`` | of a pair, Å |
| u | first 3N of q | Å |
| e | last 6 of q | strain in Voigt order (xx, yy, zz, yz, xz, xy), shears twice ε: ∂E/∂e = V · stress as ASE gives it |
| J v | ``along`` | change of the pair vectors |

The second term exists only between displacements and strains.  For several draws H is the mean, as their surface is.  It is exact
to rounding: in float64 for a network in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blipcalc.core.contracts import Draws
from blipcalc.core.evaluate import PAIRS, Evaluator
from blipcalc.core.forces import forces_from_gradient
from blipcalc.core.graph import Graph
from blipcalc.core.kernels import padded_number
from blipcalc.process import plain_state

#: pairs times directions per pass where only memory limits them
MANY = 300_000


class Curvature:
    """Hessian of the mean of some draws at one structure.

    Parameters
    ----------
    evaluator : of the model
    draws : draws of the mean surface, on the device and in the dtype of the model
    graph : one structure of N atoms
    strain : whether the six strains are coordinates too
    lock : held while the model is evaluated

    size : 3N, or 3N + 6
    """

    def __init__(
        self,
        evaluator: Evaluator,
        draws: Draws,
        graph: Graph,
        *,
        strain: bool = False,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._evaluator, self._lock = evaluator, nullcontext() if lock is None else lock
        self._draws = [draws[k : k + 1] for k in range(draws.n if draws.overrides else 1)]
        graph = graph if graph.positions.device == evaluator.device else graph.clone().to(str(evaluator.device))
        self._tensors = graph.tensors(evaluator.dtype)
        self._n_atoms = len(graph.species)
        self.size = 3 * self._n_atoms + (6 if strain else 0)

    def matrix(self) -> np.ndarray:
        """Return the symmetric Hessian (size, size), eV/Å² between displacements, eV/Å and eV with strains."""
        found = self.product(np.eye(self.size))
        return 0.5 * (found + found.T)

    @plain_state()
    def product(self, directions: np.ndarray) -> np.ndarray:
        """Return H v (B, size) of directions (B, size)."""
        given = torch.as_tensor(directions, dtype=self._evaluator.dtype, device=self._evaluator.device)
        # limited by caches on a CPU: 63 directions and 312 pairs took 9.0 s in one pass, 2.8 s in passes of 12
        most = PAIRS if given.device.type == "cpu" else MANY
        per_pass = max(1, most // max(1, padded_number(self._tensors.vectors.shape[0])))
        per_pass = math.ceil(self.size / math.ceil(self.size / per_pass))  # passes of nearly equal size
        total = torch.zeros(given.shape, dtype=torch.float64, device=given.device)
        with self._lock, torch.no_grad():
            for draw in self._draws:
                slope = self._evaluator.gradient(draw, self._tensors).double() if self._strained else None
                curve = self._evaluator.curvature(draw, self._tensors)
                total += torch.cat([self._of_draw(curve, slope, v, per_pass) for v in given.split(per_pass)])
        return (total / len(self._draws)).cpu().numpy()

    @property
    def _strained(self) -> bool:
        return self.size > 3 * self._n_atoms

    def _of_draw(self, curve: Callable[[Tensor], Tensor], slope: Tensor | None, v: Tensor, per_pass: int) -> Tensor:
        """Return H v (b, size) of one draw; curve : its second derivatives, slope : (E, 3) ∂E/∂d with strains."""
        u, e = v[:, : 3 * self._n_atoms].unflatten(1, (-1, 3)), v[:, 3 * self._n_atoms :]
        source, target = self._tensors.edge_index
        moved = u[:, source] - u[:, target]
        along = moved + self._tensors.vectors @ strain_matrix(e) if self._strained else moved
        if self._evaluator.strategy == "compiled":  # one kernel for all passes
            along = torch.nn.functional.pad(along, (0, 0, 0, 0, 0, per_pass - len(v)))
        bent = curve(along)[: len(v)].double()
        if slope is None:
            return self._by_atoms(bent)
        virial = self._tensors.vectors.T.double() @ bent + moved.mT.double() @ slope
        return torch.cat([self._by_atoms(bent + slope @ strain_matrix(e).double()), voigt(virial)], dim=1)

    def _by_atoms(self, of_pairs: Tensor) -> Tensor:
        """Convert derivatives by vectors (b, E, 3) to those by displacements (b, 3N)."""
        return -forces_from_gradient(of_pairs, self._tensors.edge_index, self._n_atoms).flatten(1)


def strain_matrix(e: Tensor) -> Tensor:
    """Return symmetric matrices (b, 3, 3) of strains (b, 6) in Voigt order, shears twice the entries."""
    xx, yy, zz, yz, xz, xy = e.unbind(-1)
    rows = [[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def voigt(matrices: Tensor) -> Tensor:
    """Convert derivatives by the entries of ε (b, 3, 3) to those by strains in Voigt order (b, 6)."""
    both = 0.5 * (matrices + matrices.mT)
    return torch.stack([both[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], dim=1)
