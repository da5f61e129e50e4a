"""Accuracy and error bars of energies and forces as figures, with their sampling errors over frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blipcalc.calibration.coverage import Coverage, atom_coverage, energy_coverage
from blipcalc.calibration.residuals import Residuals
from blipcalc.stats.bootstrap import frame_bootstrap
from blipcalc.stats.ranks import MINIMUM_GROUP, spearman, spearman_ceiling, spearman_within
from blipcalc.stats.scores import crps_gaussian, mae, nll, rmse, zms

Array = np.ndarray
NAN = float("nan")


@dataclass(frozen=True)
class Scores:
    """Accuracy and error bars of one quantity, in its unit u (eV, or eV/Å per component).

    mae, rmse : u; mean_std : mean sigma, u
    zms, zms_interval : mean squared z-score per component, 1 for correct variances; 95 % interval, frames resampled
    nll : Gaussian, per component; crps : u
    spearman : of sigma with the size of the error (forces: within elements); spearman_ceiling : of a perfect model with
        these sigmas; spearman_ratio : the first over the second
    coverage : at every level
    n_left_out : number of energies, or atoms, without a finite variance, or with an error and no spread, left out of all but
        mae, rmse and coverage
    frames_without_spread : frames of those with an error and a spread of zero
    n_silent : number of energies, or force components, without error and variance: they vanish by symmetry, carry no
        information, and are left out of all but mae and rmse
    """

    mae: float
    rmse: float
    mean_std: float
    zms: float
    zms_interval: tuple[float, float]
    nll: float
    crps: float
    spearman: float
    spearman_ceiling: float
    spearman_ratio: float
    coverage: tuple[Coverage, ...]
    n_left_out: int
    n_silent: int
    frames_without_spread: tuple[int, ...]


def energy_scores(residuals: Residuals, levels: Sequence[float], seed: int) -> Scores:
    """Return the scores of total energies, eV."""
    error, variance = residuals.energy_error, residuals.energy_var
    known, silent, spreadless = residuals.scored_energy, residuals.silent_energy, residuals.spreadless_energy
    sigma, size, rng = np.sqrt(variance[known]), np.abs(error[known]), np.random.default_rng(seed)
    return _scores(
        error[:, None],
        variance[:, None],
        (known[:, None], silent[:, None], spreadless[:, None]),
        np.arange(residuals.n_frames),
        ranks=(spearman(sigma, size), spearman_ceiling(sigma, rng, dimension=1)) if known.any() else (NAN, NAN),
        coverage=energy_coverage(residuals, levels),
        seed=seed,
    )


def force_scores(residuals: Residuals, levels: Sequence[float], seed: int) -> Scores:
    """Return the scores of force components, eV/Å, with ranks of norms within elements."""
    known = residuals.scored.any(axis=1)
    sigma, size, species = residuals.atom_std[known], residuals.force_norm[known], residuals.species[known]
    rng, ceilings = np.random.default_rng(seed), []
    for z in np.unique(species):
        if np.count_nonzero(species == z) >= MINIMUM_GROUP:
            ceilings.append(spearman_ceiling(sigma[species == z], rng))
    finite = [ceiling for ceiling in ceilings if not math.isnan(ceiling)]
    return _scores(
        residuals.force_error,
        residuals.forces_var,
        (residuals.scored, residuals.silent, residuals.spreadless),
        residuals.frame,
        ranks=(
            spearman_within(sigma, size, species) if known.any() else NAN,
            float(np.mean(finite)) if finite else NAN,
        ),
        coverage=atom_coverage(residuals, levels),
        seed=seed,
    )


def _scores(
    error: Array,
    variance: Array,
    masks: tuple[Array, Array, Array],
    frame: Array,
    *,
    ranks: tuple[float, float],
    coverage: tuple[Coverage, ...],
    seed: int,
) -> Scores:
    """Return the scores of errors and variances (n, components) of some frames (n,).

    masks : scored, silent, and without spread, (n, components) each
    """
    known, silent, spreadless = masks
    e, v, of_frame = error[known], variance[known], np.broadcast_to(frame[:, None], error.shape)[known]
    rho, ceiling = ranks
    return Scores(
        mae=mae(error),
        rmse=rmse(error),
        mean_std=or_nan(lambda: float(np.sqrt(v).mean()), known),
        zms=or_nan(lambda: zms(e, v), known),
        zms_interval=zms_bootstrap(e, v, of_frame, seed),
        nll=or_nan(lambda: nll(e, v), known),
        crps=or_nan(lambda: crps_gaussian(e, v), known),
        spearman=rho,
        spearman_ceiling=ceiling,
        spearman_ratio=rho / ceiling if ceiling > 0 else NAN,
        coverage=coverage,
        n_left_out=int(np.count_nonzero(~(known | silent).all(axis=1))),
        n_silent=int(np.count_nonzero(silent)),
        frames_without_spread=tuple(np.unique(frame[spreadless.any(axis=1)]).tolist()),
    )


def zms_bootstrap(error: Array, variance: Array, frame: Array, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean squared z-score of (n,) errors by resampling whole frames; NaN for fewer than two."""
    labels, code = np.unique(frame, return_inverse=True)
    if len(labels) < 2:
        return NAN, NAN
    sums = np.bincount(code, weights=error**2 / variance)
    rows = np.stack([sums, np.bincount(code)], axis=1)
    return frame_bootstrap(
        rows, np.arange(len(rows)), lambda r: r[:, 0].sum() / r[:, 1].sum(), np.random.default_rng(seed)
    )


def or_nan(score: Callable[[], float], known: Array) -> float:
    """Return a score of the known values, NaN where there are none."""
    return score() if known.any() else NAN
