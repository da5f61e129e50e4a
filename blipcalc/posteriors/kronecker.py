"""Gauss-Newton matrix of a weight matrix, approximated by one Kronecker product.

For weights W (m, n) and the derivatives J_o (m, n) of outputs o, each divided by its noise:

    G = Σ_o vec J_o vec J_oᵀ   ≈   A ⊗ B / t,      A = Σ_o J_o J_oᵀ,   B = Σ_o J_oᵀ J_o,   t = tr A = tr B = tr G

(vec takes the rows one after the other.)  A and B are the partial traces of G, over columns and over rows, and the product keeps
both.  It corresponds to the product of the marginals of a joint distribution: with traces normalised, no other product has a
smaller relative entropy of G.  It equals G where J_o = g aᵀ with independent g and a, and for a vector of weights, which is a
matrix of one row.  (A and B are the factors of Shampoo: Gupta, Koren, Singer 2018, arXiv 1802.09568; and
one step of the power iteration to the nearest product: Morwani et al. 2024, arXiv 2406.17748.)

Martens and Grosse (2015, arXiv 1503.05671), and Ritter, Botev and Barber (2018) for Laplace, take other factors: second moments
of the inputs a of a layer and of the gradients g at its outputs, for J_o = g aᵀ.  But here a layer enters an output once for
each atom or pair, and a force once more for each in the backward pass: J_o = Σ_r g_r a_rᵀ, a sum without such factors unless
approximated further (Eschenhagen et al. 2023, arXiv 2311.00636; Dangel, Müller, Zeinhofer 2024, arXiv 2405.15603).
The J_o themselves need no such approximation, nor any knowledge of layers: a tensor with two axes is a matrix, one with more is
a stack of matrices (for example one per element), each with its own product.  Between blocks G is taken as zero, as in those
papers.

Energies and forces are summed separately, since their noise is fitted afterwards: A = A_E / σ_E² + A_F / σ_F², and B likewise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blipcalc.posteriors.gauss_newton import Eigen
from blipcalc.posteriors.gaussian import stack_shape


class Kronecker:
    """Kronecker product A ⊗ B / t for every weight matrix."""

    def sums(self, jacobian: Tensor) -> tuple[Tensor, ...]:
        """Return A (B, m, m) and B (B, n, n) of a stack of B matrices."""
        stack = jacobian.reshape(len(jacobian), *stack_shape(jacobian.shape[1:]))
        rows = stack.permute(1, 2, 0, 3).flatten(2)
        columns = stack.permute(1, 3, 0, 2).flatten(2)
        return rows @ rows.mT, columns @ columns.mT

    def eigen(self, sums: tuple[Tensor, ...]) -> Eigen:
        """Return eigenvalues λ_i μ_j / t (B, m, n) on the axes of A and of B; derivatives pass through the eigenvalues alone."""
        (of_rows, left), (of_columns, right) = (torch.linalg.eigh(part) for part in sums)
        # only rounding makes an eigenvalue negative, and a weight without influence has t = 0
        of_rows, of_columns = of_rows.clamp(min=0.0), of_columns.clamp(min=0.0)
        trace = of_rows.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(of_rows.dtype).tiny)
        return Eigen((of_rows / trace)[:, :, None] * of_columns[:, None, :], left, right)
