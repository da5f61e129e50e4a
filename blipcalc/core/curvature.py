"""Second derivatives of a surface by automatic differentiation: a product with vectors, or the whole matrix.

With q = (u, e), displacements u of the atoms and then a strain e of everything,

    d_e(q) = (d_e + u_source - u_target) (1 + ε(e)),    H = ∂²E/∂q²,    H v by differentiating the gradient once more

| symbol | variable | meaning |
|---|---|---|
| d_e | ``vectors`` | of a pair, Å |
| u | first 3N of q | Å |
| e | last 6 of q | strain in Voigt order (xx, yy, zz, yz, xz, xy), shears twice ε: ∂E/∂e = V · stress as ASE gives it |

Of several draws it is the mean, as their surface is.  Exact to rounding: in float64 for a network in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from blipcalc.core.contracts import Draws
from blipcalc.core.evaluate import PAIRS, Evaluator
from blipcalc.core.graph import Graph

#: pairs times directions per pass where the memory is the only bound
MANY = 300_000


class Curvature:
    """The Hessian of the mean of some draws at one structure.

    Parameters
    ----------
    evaluator : of the model
    draws : whose mean surface is meant, on the device and in the dtype of the model
    graph : one structure of N atoms
    strain : take the six strains as coordinates too

    size : 3N, or 3N + 6
    """

    def __init__(self, evaluator: Evaluator, draws: Draws, graph: Graph, *, strain: bool = False) -> None:
        self._evaluator, self._draws = evaluator, draws
        graph = graph if graph.positions.device == evaluator.device else graph.clone().to(str(evaluator.device))
        self._tensors = graph.tensors(evaluator.dtype)
        self._n_atoms = len(graph.species)
        self.size = 3 * self._n_atoms + (6 if strain else 0)
        self._strained = strain

    def matrix(self) -> np.ndarray:
        """(size, size) eV/Å² between displacements, eV/Å and eV with strains; symmetric."""
        found = self.product(np.eye(self.size))
        return 0.5 * (found + found.T)

    def product(self, directions: np.ndarray) -> np.ndarray:
        """(B, size) directions -> (B, size) H v."""
        given = torch.as_tensor(directions, dtype=self._evaluator.dtype, device=self._evaluator.device)
        # on a CPU as many as stay in its caches: 63 directions and 312 pairs took 9.0 s in one pass, 2.8 s in passes of 12
        most = PAIRS if given.device.type == "cpu" else MANY
        per_pass = max(1, most // max(1, self._tensors.vectors.shape[0]))
        total = torch.zeros(given.shape, dtype=torch.float64, device=given.device)
        single = self._draws.n if self._draws.overrides else 1
        for k in range(single):
            overrides = {name: value[k] for name, value in self._draws.overrides.items()}
            total += self._of_draw(overrides, given, per_pass).double()
        return (total / single).cpu().numpy()

    def _of_draw(self, overrides: dict[str, Tensor], directions: Tensor, per_pass: int) -> Tensor:
        """H v of one draw; the gradient is built once, and differentiated once more for all directions."""
        q = torch.zeros(self.size, dtype=directions.dtype, device=directions.device)
        if self._evaluator.model.supports_vmap:
            with torch.no_grad():
                _, product = torch.func.vjp(torch.func.grad(lambda at: self._energy(at, overrides)), q)
                passes = [torch.func.vmap(product)(part)[0] for part in directions.split(per_pass)]
            return torch.cat(passes)
        with torch.enable_grad():
            q.requires_grad_()
            (gradient,) = torch.autograd.grad(self._energy(q, overrides), q, create_graph=True)
            rows = [torch.autograd.grad(gradient, q, v, retain_graph=True)[0] for v in directions]
        return torch.stack(rows)

    def _energy(self, q: Tensor, overrides: dict[str, Tensor]) -> Tensor:
        source, target = self._tensors.edge_index
        u = q[: 3 * self._n_atoms].view(-1, 3)
        vectors = self._tensors.vectors + u[source] - u[target]
        if self._strained:
            vectors = vectors + vectors @ strain_matrix(q[3 * self._n_atoms :])
        return self._evaluator.total_energy(vectors, overrides, self._tensors, linear=self._draws.linear)


def strain_matrix(e: Tensor) -> Tensor:
    """(6,) strains in Voigt order, shears twice the entries -> (3, 3) symmetric."""
    xx, yy, zz, yz, xz, xy = e
    rows = [[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]]
    return torch.stack([torch.stack(row) for row in rows])
