"""Validation score of the sampled predictive distribution; the network at the mean weights alone would not show the noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from blipcalc.core.contracts import Network, Posterior, place_draws
from blipcalc.stats.scores import crps_gaussian
from blipcalc.training.batches import Labelled
from blipcalc.training.objectives import crps
from blipcalc.training.steps import StepOutput, step_function


def validate(
    model: Network,
    posterior: Posterior,
    batches: Sequence[Labelled],
    *,
    n_draws: int,
    generator: torch.Generator,
    weights: tuple[float, float],
) -> dict[str, float]:
    """Return the MAE of the predictive mean (eV, eV/Å), and the score that selects the model.

    With a spread the score is the weighted CRPS of the draws; without one it is the weighted MAE, which is the CRPS of a
    point prediction; with mean-variance heads the CRPS of a Gaussian of the total variance.
    """
    draws = place_draws(model, posterior.draw(n_draws if posterior.is_random else 1, generator=generator))
    step = step_function(model, stacked=draws.n > 1, compiled=False)
    overrides = dict(draws.overrides) if draws.n > 1 else {n: v[0] for n, v in draws.overrides.items()}
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    sums = {"energy": [0.0, 0.0, 0], "forces": [0.0, 0.0, 0]}
    for batch in batches:
        with torch.no_grad():
            out = step(parameters, overrides, *batch.graph)
        noise = None if out.forces_cov is None else out.forces_cov.diagonal(dim1=-2, dim2=-1)
        _add(sums["energy"], (out.energy - batch.energy).double(), out.energy_var)
        _add(sums["forces"], (out.forces - batch.forces).double(), noise)
    energy_weight, forces_weight = weights
    score = [sums[name][1] / sums[name][2] for name in ("energy", "forces")]
    return {
        "energy_mae": sums["energy"][0] / sums["energy"][2],
        "forces_mae": sums["forces"][0] / sums["forces"][2],
        "score": energy_weight * score[0] + forces_weight * score[1],
    }


def residual_rms(steps: Iterable[tuple[StepOutput, Labelled]]) -> dict[str, float]:
    """Return root mean square residuals: ``energy`` (eV) over √(number of atoms), and ``forces`` per component (eV/Å)."""
    sums, n_frames, n_atoms = torch.zeros(2, dtype=torch.float64), 0, 0
    for step, batch in steps:
        counts = torch.bincount(batch.graph.batch, minlength=batch.graph.n_structures)
        sums[0] += float(((step.energy - batch.energy).square() / counts).mean(dim=0).sum())
        sums[1] += float((step.forces - batch.forces).double().square().mean(dim=(0, 2)).sum())
        n_frames, n_atoms = n_frames + len(counts), n_atoms + len(batch.forces)
    energy, forces = (sums / torch.tensor([n_frames, n_atoms])).sqrt().tolist()
    return {"energy": energy, "forces": forces}


def _add(sums: list[float], residual: Tensor, noise: Tensor | None) -> None:
    """Add the sums of |mean error| and of the CRPS, and the count, for residuals and noise variances with the draws in front."""
    error, n = residual.mean(dim=0), residual[0].numel()
    absolute = float(error.abs().sum())
    score = float(crps(residual)) * n if residual.shape[0] > 1 else absolute
    if noise is not None:
        variance = noise.mean(dim=0) + (residual.var(dim=0) if residual.shape[0] > 1 else 0.0)
        score = crps_gaussian(error.cpu().numpy(), variance.cpu().numpy()) * n
    sums[0] += absolute
    sums[1] += score
    sums[2] += n
