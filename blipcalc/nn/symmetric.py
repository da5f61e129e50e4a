"""Symmetric 3×3 matrices: traceless parts, exponential, and Gaussians with such covariances."""

from __future__ import annotations

import torch
from torch import Tensor

#: squarings and terms of the exponential: for ‖Q‖ ≤ 4 the truncation error is below 1e-14
SQUARINGS, TERMS = 5, 10


def symmetric_traceless(a: Tensor, b: Tensor) -> Tensor:
    """Return Σ_c of the symmetric traceless part of a_c ⊗ b_c; (N, 3, C) twice -> (N, 3, 3)."""
    product = torch.einsum("nic,njc->nij", a, b)
    symmetric = 0.5 * (product + product.transpose(-1, -2))
    trace = symmetric.diagonal(dim1=-2, dim2=-1).sum(-1)
    return symmetric - trace[..., None, None] / 3.0 * torch.eye(3, dtype=a.dtype, device=a.device)


def bounded(q: Tensor, bound: float) -> Tensor:
    """Return the matrix scaled to a Frobenius norm below ``bound``: Q / √(1 + ‖Q‖² / bound²), smooth everywhere."""
    return q * torch.rsqrt(1.0 + q.square().sum(dim=(-2, -1), keepdim=True) / bound**2)


def symmetric_exp(q: Tensor) -> Tensor:
    """Return the exponential of symmetric matrices with ‖Q‖ ≤ 4, by scaling and squaring; (…, 3, 3) -> (…, 3, 3).

    It uses plain products: unlike ``torch.linalg.eigh`` it has derivatives where eigenvalues coincide, and unlike
    ``torch.linalg.matrix_exp`` no branch depends on values, so that it can be traced and batched.
    """
    identity = torch.eye(3, dtype=q.dtype, device=q.device)
    scaled = q / 2**SQUARINGS
    total = identity + scaled / TERMS
    for n in range(TERMS - 1, 0, -1):  # Horner's scheme
        total = identity + scaled @ total / n
    for _ in range(SQUARINGS):
        total = total @ total
    return total


def gaussian_terms(residual: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return rᵀ Σ⁻¹ r and ln det Σ of each vector; (…, 3) and (…, 3, 3) -> (…) and (…)."""
    factor = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)[..., 0]
    return whitened.square().sum(-1), 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
