"""Training objectives: functions of predicted and reference energies and forces, in units of the label scale.

With the scale s (eV, and eV/Å for forces: the RMS force component of the training set) the residuals are

    e = (E - E_ref) / s,    f = (F - F_ref) / s

so that weights, learning rate and the KL weight do not depend on the chemistry; variances of mean-variance heads are divided
by s².  ``mean`` is the average over a batch, which may be spread over processes.

The joint likelihood of energies and forces (Willow, …, Myung, arXiv 2510.03046, eq. 24) is

    λ_E r²/σ² + ln σ² + λ_F fᵀ Σ⁻¹ f + ln det Σ

whose minimum is at λ times the variance of the errors.  As a function of σ²/λ and Σ/λ it is the same with λ = 1, up to a
constant: λ changes only the unit of the variance.  So there is no λ here: weights multiply whole terms, and reported variances
are those of the errors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blipcalc.core.contracts import Heads
from blipcalc.core.demanded import demanded
from blipcalc.errors import ConfigurationError
from blipcalc.nn.symmetric import gaussian_terms
from blipcalc.training.batches import Labelled
from blipcalc.training.steps import StepOutput

Mean = Callable[[Tensor], Tensor]


def mae(residual: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Return the mean absolute residual: a Laplace likelihood of fixed width (BLIP, §5.1)."""
    return mean(residual.abs())


def mse(residual: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Return the mean squared residual."""
    return mean(residual.square())


def gaussian_nll(residual: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Return the Gaussian negative log-likelihood per component with one profiled noise variance: ½ log mean r² (+ constant).

    The variance has its maximum-likelihood value for the batch, which balances energies and forces automatically.
    """
    return 0.5 * torch.log(mean(residual.square()) + torch.finfo(residual.dtype).eps)


def crps(residual: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Return the fair CRPS of R ≥ 2 draws, per component.

        CRPS = mean_r |x_r - y| - 1 / (2 R (R - 1)) Σ_{r,q} |x_r - x_q|

    A proper score: it rewards a spread that matches the error, whereas the error of single draws only penalises spread.
    Source: Gneiting and Raftery 2007, eq. 21, with the unbiased spread term of Ferro 2014.
    """
    n = residual.shape[0]
    if n < 2:
        raise ConfigurationError("the crps objective needs train_draws ≥ 2")
    pairs = (residual[:, None] - residual[None, :]).abs().sum(dim=(0, 1)) / (2 * n * (n - 1))
    return mean(residual.abs().mean(dim=0) - pairs)


def variance_nll(residual: Tensor, variance: Tensor, mean: Mean = torch.mean, beta: float = 0.0) -> Tensor:
    """Return the Gaussian negative log-likelihood with one variance per residual: mean of ½ (r² / σ² + ln σ²), without ½ ln 2π.

    beta : multiplies each term by ⌊σ²⌋^β, whose gradient is stopped (β-NLL, Seitzer et al. 2022, arXiv 2203.09168, eq. 9):
        without it residuals with a large variance are hardly learnt; 0.5 is recommended there, and with 1 means have the gradient
        of the mse
    """
    terms = 0.5 * (residual.square() / variance + variance.log())
    return mean(terms * variance.detach() ** beta if beta else terms)


def covariance_nll(residual: Tensor, covariance: Tensor, mean: Mean = torch.mean, beta: float = 0.0) -> Tensor:
    """Return the same for vectors (…, 3) with covariances (…, 3, 3), per component: mean of (rᵀ Σ⁻¹ r + ln det Σ) / 6.

    beta : multiplies each term by ⌊det Σ⌋^(β/3)
    """
    square, logdet = gaussian_terms(residual, covariance)
    terms = (square + logdet) / 6.0
    return mean(terms * (logdet.detach() * beta / 3.0).exp() if beta else terms)


#: objectives of residuals alone
OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "mae": mae,
    "mse": mse,
    "gaussian_nll": gaussian_nll,
    "crps": crps,
}

#: objectives of residuals and variances of mean-variance heads, with the heads that each needs
WITH_HEADS: dict[str, Heads] = {"nll_e": "energy", "nll_jef": "joint"}


def losses(
    name: str,
    step: StepOutput,
    batch: Labelled,
    scale: float,
    *,
    mean: Mean = torch.mean,
    beta: float = 0.0,
    units: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the losses of energies and of forces under an objective.

    ``nll_e`` is the likelihood of energies and the mse of forces, ``nll_jef`` the likelihood of both.

    step : outputs of R draws; batch : labels; scale : s, eV; mean, beta : see above
    units : u_E and u_F, root mean square residuals (of the energy per √atom) in units of s: likelihoods are multiplied by
        2 u² (with β: 2 u²⁻²ᵝ), which keeps their minima and continues the gradients of the mse.  The joint likelihood has
        one factor, that of u_F, so that it stays a likelihood of both
    """
    energy, forces = (step.energy - batch.energy) / scale, (step.forces - batch.forces) / scale
    if name in OBJECTIVES:
        return OBJECTIVES[name](energy.to(forces.dtype), mean), OBJECTIVES[name](forces, mean)
    unit_energy, unit_forces = units or (0.5**0.5, 0.5**0.5)
    of_energy = variance_nll(energy, demanded(step.energy_var, "variances of the energy") / scale**2, mean, beta)
    if name == "nll_e":
        return 2.0 * unit_energy ** (2 - 2 * beta) * of_energy, mse(forces, mean)
    covariance = demanded(step.forces_cov, "covariances of the forces")
    of_forces = covariance_nll(forces.double(), covariance / scale**2, mean, beta)
    factor = 2.0 * unit_forces ** (2 - 2 * beta)
    return factor * of_energy, factor * of_forces


def likelihood_weight(name: str, residual: float) -> float:
    """Return the factor that turns the mean loss of forces into the negative log-likelihood of one component (+ constant).

    The loss does not contain the width of the distribution, so ``residual``, in units of the label scale, is used for it.  For
    mae the distribution is Laplace, |r|/b, and the crps, which is no likelihood, is treated alike.  For mse it is Gaussian,
    r²/(2 σ²), also for ``nll_e`` and ``nll_jef``, whose scaled gradients (:func:`losses`) are those of the mse.
    ``gaussian_nll`` is a likelihood already.
    """
    if name == "gaussian_nll":
        return 1.0
    return 1.0 / residual if name in ("mae", "crps") else 0.5 / residual**2
