"""Fit of a calibration: a variance scale per element and for the energy, then split conformal quantiles.

    scale[Z] = mean e² / s² over components of atoms of Z,      σ_i = sqrt(scale[Z_i] tr Σ_i / 3),      a_i = ‖e_i‖ / σ_i
    q_atom[Z] = conformal quantile of a_i, each frame of weight 1 shared by its atoms of Z
    q_frame   = conformal quantile of max_i a_i over the atoms of a frame

The quantile over atoms is ``frame_weighted_quantile``: the limit of drawing one atom per frame many times, with the same coverage
and without random numbers, so that a calibration is a function of its frames alone.

| frames with the element | scale | q_atom at a level |
|---|---|---|
| fewer than :data:`MINIMUM_FRAMES` | none: uncalibrated | none |
| fewer than ``confident_count(level)`` (59 at 0.95, 299 at 0.99) | its own | the largest over all elements |
| more | its own | its own |

A class too small for a quantile of its own has no guarantee, hence the largest one (``methods/uncertainty.md`` 2.5).
A quantile that would be infinite for lack of frames is left out, so that a request for its level is a named error.

Forces that vanish by symmetry are silent (:mod:`blipcalc.calibration.residuals`): they, and frames with nothing else, are left
out everywhere, and all counts are of the rest.

Source: ``scale`` and conformal scores as in Angelopoulos, Bates 2023, doi:10.1561/2200000101; one quantile per class: Vovk,
Gammerman, Shafer 2005, section 4.5 (Mondrian).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from ase import Atoms

from blipcalc.calibration.checks import check_residuals, well_known
from blipcalc.calibration.residuals import (
    BATCH_ATOMS,
    Progress,
    Residuals,
    batches,
    check_frames,
    frames_hash,
    residuals_of,
    seen_in_training,
    silence_text,
)
from blipcalc.core.contracts import Draws, Posterior, Surface, place_draws
from blipcalc.core.evaluate import Evaluator, Strategy
from blipcalc.core.graph import Graph
from blipcalc.core.prediction import Calibration, Prediction, sample_arrays, summarize
from blipcalc.core.validate import check_elements
from blipcalc.data.silent_forces import informing_frames
from blipcalc.errors import (
    CalibrationError,
    ConfigurationError,
    DrawsError,
    SilentForcesWarning,
    TrainingDataReusedError,
    warn_user,
)
from blipcalc.model_file.model import Model
from blipcalc.posteriors.stored import feasible_draws
from blipcalc.predictor import device_of, draws_of, dtype_of
from blipcalc.process import plain_state
from blipcalc.settings import several, whole
from blipcalc.stats.conformal import confident_count, conformal_quantile, frame_weighted_quantile
from blipcalc.stats.fits import variance_scale

LEVELS = (0.68, 0.90, 0.95, 0.99)


def fit_calibration(
    residuals: Residuals,
    *,
    surface: Surface,
    n_draws: int,
    seed: int,
    model_hash: str,
    frames_hash: str,
    levels: Sequence[float] = LEVELS,
) -> Calibration:
    """Fit a calibration to posterior variances and errors on frames that the model has not seen.

    residuals : of posterior values, not calibrated
    surface, n_draws, seed, model_hash, frames_hash : stored with the constants
    levels : 1 - α, each between 0 and 1
    raises : CalibrationError for residuals that are calibrated, are of another surface or K, have no finite error or no spread,
        or where no element is in :data:`MINIMUM_FRAMES` frames
    """
    check_residuals(residuals, surface, n_draws)
    speaking, scored = ~residuals.silent_atoms, residuals.scored
    frames_of = {z: np.unique(residuals.frame[speaking & (residuals.species == z)]).size for z in residuals.elements}
    counts = well_known(frames_of)
    of = {z: speaking & (residuals.species == z) for z in counts}
    energies = residuals.scored_energy
    fitted = Calibration(
        surface=surface,
        n_draws=n_draws,
        seed=seed,
        model_hash=model_hash,
        scale={z: _scale(residuals, scored & (residuals.species == z)[:, None]) for z in counts},
        scale_energy=variance_scale(residuals.energy_error[energies], residuals.energy_var[energies]),
        q_atom={},
        q_frame={},
        n_frames=np.unique(residuals.frame[speaking]).size,
        n_atoms={z: int(of[z].sum()) for z in counts},
        frames_hash=frames_hash,
        n_element_frames=counts,
    )
    calibrated = residuals.apply(fitted)
    return replace(
        fitted,
        q_atom=_atom_quantiles(calibrated.ratio, residuals, counts, levels),
        q_frame=_frame_quantiles(calibrated.frame_ratio, levels),
    )


def _scale(residuals: Residuals, rows: np.ndarray) -> float:
    """Return the variance scale of the components in a mask (N, 3)."""
    return variance_scale(residuals.force_error[rows], residuals.forces_var[rows])


def _atom_quantiles(
    ratio: np.ndarray, residuals: Residuals, counts: dict[int, int], levels: Sequence[float]
) -> dict[int, dict[float, float]]:
    """Return {Z: {level: q}} by the table of the module; levels without a finite quantile are absent."""
    found: dict[int, dict[float, float]] = {z: {} for z in counts}
    for level in levels:
        own = {}
        for z in counts:
            rows = residuals.species == z
            rows = rows & ~np.isnan(ratio)  # without the silent ones
            own[z] = frame_weighted_quantile(ratio[rows], residuals.frame[rows], level)
        worst = max((q for q in own.values() if np.isfinite(q)), default=np.inf)
        for z, count in counts.items():
            q = own[z] if count >= confident_count(level) else worst
            if np.isfinite(q):
                found[z][float(level)] = float(q)
    return found


def _frame_quantiles(worst: np.ndarray, levels: Sequence[float]) -> dict[float, float]:
    """Return {level: q} over frames whose elements are all calibrated; monitors halt on other frames anyway.

    worst : (S,) largest ratio of each frame, NaN for frames left out
    """
    worst = worst[~np.isnan(worst)]
    quantiles = {float(level): conformal_quantile(worst, level) for level in levels}
    return {level: q for level, q in quantiles.items() if np.isfinite(q)}


@plain_state()
def calibrate(
    model: Model,
    frames: Sequence[Atoms],
    *,
    surfaces: Sequence[Surface] | None = None,
    n_draws: Sequence[int] = (8, 16, 32),
    seed: int = 0,
    levels: Sequence[float] = LEVELS,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float64",
    strategy: Strategy = "auto",
    chunk: int | None = None,
    batch_size: int = BATCH_ATOMS,
    progress: Progress | None = None,
) -> Model:
    """Return the model with calibrations for every surface and K, fitted to labelled frames outside its training set.

    The draws of the largest K are evaluated once; smaller K use the first of them, where draw k of the posterior does not depend
    on K.

    frames : with energies and forces, several hundred, from the same distribution as those to be predicted
    surfaces : None takes all surfaces of the posterior
    n_draws : values of K; an ensemble of M members is calibrated for min(K, M), a point estimate with heads for 1. Without
        heads and for K <= 3 the mean squared z-score of Gaussian draws diverges: ``scale`` is then ill determined, but
        the quantiles still hold
    seed : of the draws; levels : of the conformal quantiles
    device, dtype, strategy : of the evaluation, of at most batch_size atoms and chunk draws at once
    progress : called with (frames done, frames in all)
    raises : TrainingDataReusedError, CalibrationError, DataError, StructureError, ConfigurationError
    """
    check_frames(frames)
    _refuse_training_frames(model, frames)
    for atoms in frames:
        check_elements(atoms.numbers, model.network.species)
    well_known(informing_frames(frames))
    counts, surfaces = _draw_counts(model, n_draws), _surfaces(model.posterior, surfaces)
    seed, network = whole("seed", seed), copy.deepcopy(model.network).to(device_of(device), dtype_of(dtype))
    evaluator = Evaluator(network.eval().requires_grad_(False), strategy=strategy, chunk=chunk)
    groups = [(place_draws(network, draws), shared) for draws, shared in _shared_draws(model.posterior, counts, seed)]
    centre = place_draws(network, model.posterior.centre()) if "centre" in surfaces else None
    predictions: dict[tuple[Surface, int], list[Prediction]] = {(s, k): [] for s in surfaces for k in counts}
    done = 0
    for batch in batches(frames, batch_size):
        _predict(evaluator, groups, centre, batch, predictions)
        done += len(batch)
        if progress is not None:
            progress(done, len(frames))
    fit = partial(fit_calibration, seed=seed, model_hash=model.hash, frames_hash=frames_hash(frames), levels=levels)
    errors = {key: residuals_of(found, frames) for key, found in predictions.items()}
    fitted = [fit(of, surface=surface, n_draws=k) for (surface, k), of in errors.items()]
    if silence := silence_text(next(iter(errors.values()))):
        warn_user(silence, SilentForcesWarning)
    return model.with_calibrations(*fitted)


def _refuse_training_frames(model: Model, frames: Sequence[Atoms]) -> None:
    seen = seen_in_training(frames, model.frames.tolist())
    if seen:
        raise TrainingDataReusedError(
            f"{len(seen)} of {len(frames)} frames were in the training data (first: {seen[:5]}), where errors are smaller "
            "than elsewhere; calibrate on frames that the model has not seen"
        )


def _draw_counts(model: Model, n_draws: Sequence[int]) -> list[int]:
    """Return the possible values of K, sorted; one draw has variances only with heads for energy and forces."""
    least = 1 if model.network.heads == "joint" else 2
    if least > 1 and not model.posterior.is_random:
        raise CalibrationError(
            "a point estimate has no spread to calibrate; train a BLIP, a mixture, an ensemble, or heads (nll_jef)"
        )
    n_draws = [draws_of(k) for k in several("n_draws", n_draws, "several, such as (8, 16, 32)")]
    if not n_draws or min(n_draws) < least:
        raise ConfigurationError(f"a spread takes K >= {least} draws, got n_draws={tuple(n_draws)}")
    counts = sorted({feasible_draws(model.posterior, k) for k in n_draws})
    if counts[0] < least:
        raise CalibrationError("an ensemble of one member has no spread to calibrate; train more members")
    return counts


def _surfaces(posterior: Posterior, surfaces: Sequence[Surface] | None) -> list[Surface]:
    """Return the requested surfaces, by default all; raises DrawsError for ``centre`` where there is none."""
    if surfaces is not None:
        wrong = set(surfaces) - {"mean", "centre"}
        if wrong or not surfaces:
            raise ConfigurationError(f"surfaces={tuple(surfaces)}; expected 'mean', 'centre' or both")
        if "centre" in surfaces:
            posterior.centre()
        return list(dict.fromkeys(surfaces))
    try:
        posterior.centre()
    except DrawsError:
        return ["mean"]
    return ["mean", "centre"]


def _shared_draws(posterior: Posterior, counts: Sequence[int], seed: int) -> list[tuple[Draws, list[int]]]:
    """Return draws to evaluate, each with the values of K that are its first draws: one where draw k does not depend on K."""

    def drawn(k: int) -> Draws:
        return posterior.draw(k, generator=torch.Generator().manual_seed(seed))

    groups: list[tuple[Draws, list[int]]] = []
    for k in sorted(counts, reverse=True):
        own = drawn(k)
        if groups and _equal(own, groups[0][0][:k]):
            groups[0][1].append(k)
        else:
            groups.append((own, [k]))
    return groups


def _equal(a: Draws, b: Draws) -> bool:
    return a.overrides.keys() == b.overrides.keys() and all(
        torch.equal(v, b.overrides[n]) for n, v in a.overrides.items()
    )


def _predict(
    evaluator: Evaluator,
    groups: Sequence[tuple[Draws, list[int]]],
    centre: Draws | None,
    batch: Sequence[Atoms],
    predictions: dict[tuple[Surface, int], list[Prediction]],
) -> None:
    """Append the predictions of a batch for every surface and K."""
    graph = Graph.collate([Graph.from_atoms(atoms, float(evaluator.model.cutoff)) for atoms in batch])
    centres = [None] * len(batch) if centre is None else sample_arrays(evaluator(centre, graph), graph)
    for draws, counts in groups:
        for atoms, drawn, middle in zip(batch, sample_arrays(evaluator(draws, graph), graph), centres, strict=True):
            for k in counts:
                for surface in [s for s, n in predictions if n == k]:
                    found = summarize(atoms.numbers, drawn.first(k), centre=middle if surface == "centre" else None)
                    predictions[surface, k].append(found)
