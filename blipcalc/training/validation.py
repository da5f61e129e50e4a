"""The validation score: of the sampled predictive, not of the centre network, which cannot see the noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from blipcalc.core.contracts import Posterior, place_draws
from blipcalc.training.batches import Labelled
from blipcalc.training.objectives import crps
from blipcalc.training.steps import step_function


def validate(
    model: nn.Module,
    posterior: Posterior,
    batches: Sequence[Labelled],
    *,
    n_draws: int,
    generator: torch.Generator,
    weights: tuple[float, float],
) -> dict[str, float]:
    """MAE of the predictive mean (eV, eV/Å), and the score that selects the model.

    With a spread the score is the weighted CRPS of the draws; without one it is the weighted MAE, which is the CRPS of a
    point prediction.
    """
    draws = place_draws(model, posterior.draw(n_draws if posterior.is_random else 1, generator=generator))
    step = step_function(model, stacked=draws.n > 1, compiled=False)
    overrides = dict(draws.overrides) if draws.n > 1 else {n: v[0] for n, v in draws.overrides.items()}
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    sums = {"energy": [0.0, 0.0, 0], "forces": [0.0, 0.0, 0]}
    for batch in batches:
        with torch.no_grad():
            energy, forces, _ = step(parameters, overrides, *batch.graph)
        for name, residual in (("energy", energy - batch.energy), ("forces", forces - batch.forces)):
            _add(sums[name], residual.double())
    energy_weight, forces_weight = weights
    score = [sums[name][1] / sums[name][2] for name in ("energy", "forces")]
    return {
        "energy_mae": sums["energy"][0] / sums["energy"][2],
        "forces_mae": sums["forces"][0] / sums["forces"][2],
        "score": energy_weight * score[0] + forces_weight * score[1],
    }


def _add(sums: list[float], residual: Tensor) -> None:
    """Add the sums of |mean error|, of the CRPS, and the count."""
    absolute = float(residual.mean(dim=0).abs().sum())
    n = residual[0].numel()
    sums[0] += absolute
    sums[1] += float(crps(residual)) * n if residual.shape[0] > 1 else absolute
    sums[2] += n
