"""Training objectives: functions of predicted and reference energies and forces, in units of the label scale.

With the scale s (eV, and eV/Å for forces: the RMS force component of the training set) the residuals are

    e = (E - E_ref) / s,    f = (F - F_ref) / s

so that weights, learning rate and the KL weight do not depend on the chemistry.  ``mean`` is the average over a batch, which
may be spread over processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blipcalc.errors import ConfigurationError

Mean = Callable[[Tensor], Tensor]


def mae(residual: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Mean absolute residual: a Laplace likelihood of fixed width (BLIP, §5.1)."""
    return mean(residual.abs())


def mse(residual: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Mean squared residual."""
    return mean(residual.square())


def gaussian_nll(residual: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Gaussian negative log-likelihood per component, its one noise variance profiled out: ½ log mean r² (+ constant).

    The variance takes its maximum-likelihood value of the batch, so that the balance of energies and forces sets itself.
    """
    return 0.5 * torch.log(mean(residual.square()) + torch.finfo(residual.dtype).eps)


def crps(residual: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Fair CRPS of R ≥ 2 draws, per component.

        CRPS = mean_r |x_r - y| - 1 / (2 R (R - 1)) Σ_{r,q} |x_r - x_q|

    A proper score: it rewards a spread that matches the error, where the error of single draws only punishes it.
    Source: Gneiting and Raftery 2007, eq. 21, with the unbiased spread term of Ferro 2014.
    """
    n = residual.shape[0]
    if n < 2:
        raise ConfigurationError("the crps objective needs train_draws ≥ 2")
    pairs = (residual[:, None] - residual[None, :]).abs().sum(dim=(0, 1)) / (2 * n * (n - 1))
    return mean(residual.abs().mean(dim=0) - pairs)


OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "mae": mae,
    "mse": mse,
    "gaussian_nll": gaussian_nll,
    "crps": crps,
}
