"""The Gauss-Newton matrix of a matrix of weights as one Kronecker product.

For weights W (m, n) and the derivatives J_o (m, n) of outputs o, each over its noise:

    G = Σ_o vec J_o vec J_oᵀ   ≈   A ⊗ B / t,      A = Σ_o J_o J_oᵀ,   B = Σ_o J_oᵀ J_o,   t = tr A = tr B = tr G

(vec takes the rows one after the other.)  A and B are the partial traces of G, over columns and over rows, and the product keeps
both.  It is to G what the product of its marginals is to a joint distribution: over their traces, no other product has a smaller
relative entropy of G.  It is G itself where J_o = g aᵀ with g and a that know nothing of each other, and for a vector of
weights, which is a matrix of one row.  (A and B are the factors of Shampoo: Gupta, Koren, Singer 2018, arXiv 1802.09568; and
one step of the power iteration to the nearest product: Morwani et al. 2024, arXiv 2406.17748.)

Martens and Grosse (2015, arXiv 1503.05671), and Ritter, Botev and Barber (2018) for Laplace, take other factors: second moments
of the inputs a of a layer and of the gradients g at its outputs, for J_o = g aᵀ.  But here a layer stands in an output once for
each atom or pair, and in a force once more for each in the backward pass: J_o = Σ_r g_r a_rᵀ, a sum that has no such factors
without a further approximation (Eschenhagen et al. 2023, arXiv 2311.00636; Dangel, Müller, Zeinhofer 2024, arXiv 2405.15603).
From the J_o themselves none is needed, nor any knowledge of layers: whatever has two axes is a matrix, more axes are a stack of
matrices (one per element, say), each with a product of its own.  Between blocks G is taken as zero, as it is there.

Energies and forces are summed apart, since their noise is known last: A = A_E / σ_E² + A_F / σ_F², and B likewise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blipcalc.posteriors.gauss_newton import Eigen
from blipcalc.posteriors.gaussian import stack_shape


class Kronecker:
    """A ⊗ B / t for every matrix of weights."""

    def sums(self, jacobian: Tensor) -> tuple[Tensor, ...]:
        """A (B, m, m) and B (B, n, n) of a stack of B matrices."""
        stack = jacobian.reshape(len(jacobian), *stack_shape(jacobian.shape[1:]))
        rows = stack.permute(1, 2, 0, 3).flatten(2)
        columns = stack.permute(1, 3, 0, 2).flatten(2)
        return rows @ rows.mT, columns @ columns.mT

    def eigen(self, sums: tuple[Tensor, ...]) -> Eigen:
        """Eigenvalues λ_i μ_j / t (B, m, n) on the axes of A and of B; derivatives go through the eigenvalues alone."""
        (of_rows, left), (of_columns, right) = (torch.linalg.eigh(part) for part in sums)
        # rounding alone makes an eigenvalue negative, and a weight that nothing depends on has t = 0
        of_rows, of_columns = of_rows.clamp(min=0.0), of_columns.clamp(min=0.0)
        trace = of_rows.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(of_rows.dtype).tiny)
        return Eigen((of_rows / trace)[:, :, None] * of_columns[:, None, :], left, right)
