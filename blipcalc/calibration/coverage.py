"""Coverage of errors by their intervals, and its limits by chance.

Forces: ‖force error‖ <= q_atom σ_i, for one atom of each (frame, element), averaged over all choices of that atom:

    coverage = mean over (frame, element) of the fraction of its atoms that are covered

Limits are beta-binomial in frames, not atoms.  Silent values (:mod:`blipcalc.calibration.residuals`) are not counted.  Without a
calibration the radii are those of Gaussian errors (χ with 3 degrees of freedom), and there are no limits.  The energy has no
conformal quantile: its interval is Gaussian, ± Φ⁻¹((1 + level)/2) σ, and the limits are those that a quantile from as many frames
would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import chemical_symbols
from scipy.stats import chi, norm

from blipcalc.calibration.residuals import Residuals
from blipcalc.core.prediction import Calibration
from blipcalc.errors import CalibrationError
from blipcalc.stats.conformal import confident_count, coverage_limits, minimum_count

Array = np.ndarray
NAN = float("nan")
Kind = Literal["all", "element", "composition", "frame"]


@dataclass(frozen=True)
class Coverage:
    """Observed coverage of one group at one level; fractions.

    kind, group : all atoms (or energies) pooled, an element by its symbol, a composition by its formula, or whole frames
    low, high : 99 % beta-binomial limits; NaN without a calibration, or with too few frames in it
    n_frames : number of frames with the group
    inside : whether the observed coverage lies within the limits; None without limits
    """

    kind: Kind
    group: str
    level: float
    observed: float
    low: float
    high: float
    n_frames: int
    inside: bool | None


def radius(residuals: Residuals, level: float) -> Array:
    """Return (N,) largest ratio covered at a level; NaN for an element, or a level, that was not calibrated."""
    if residuals.calibration is None:
        return np.full(len(residuals.species), chi.ppf(level, 3))
    try:
        return residuals.calibration.atom_quantile(residuals.species, level)
    except CalibrationError:
        return np.full(len(residuals.species), NAN)


def atom_coverage(residuals: Residuals, levels: Sequence[float]) -> tuple[Coverage, ...]:
    """Return the coverage of force errors, pooled, by element and by composition; levels that were not calibrated are absent."""
    ratio, found = residuals.ratio, []
    for level in levels:
        limit = radius(residuals, level)
        known = ~(np.isnan(ratio) | np.isnan(limit))
        if not known.any():
            continue
        covered, weight = ratio <= limit, _weights(residuals, known)
        for kind, group, rows in _groups(residuals, known):
            observed = float(np.average(covered[rows], weights=weight[rows]))
            frames = len(np.unique(residuals.frame[rows]))
            elements = sorted({int(z) for z in residuals.species[rows]})
            least, one_sided = _evidence(residuals.calibration, kind, elements, level)
            found.append(_row(kind, group, level, observed, frames, least, one_sided))
    return tuple(found)


def frame_coverage(residuals: Residuals, levels: Sequence[float]) -> tuple[Coverage, ...]:
    """Return the fraction of frames with max_i ‖force error‖_i / σ_i <= q_frame, without frames with an uncalibrated atom."""
    calibration = residuals.calibration
    worst = residuals.frame_ratio
    worst = worst[~np.isnan(worst)]
    if calibration is None or not worst.size:
        return ()
    return tuple(
        _row(
            "frame", "all", level, float((worst <= calibration.q_frame[level]).mean()), worst.size, calibration.n_frames
        )
        for level in levels
        if level in calibration.q_frame
    )


def energy_coverage(residuals: Residuals, levels: Sequence[float]) -> tuple[Coverage, ...]:
    """Return the coverage of energy errors by Gaussian intervals, pooled and by composition."""
    error, variance = residuals.energy_error, residuals.energy_var
    known = np.isfinite(error) & np.isfinite(variance) & ~residuals.silent_energy
    if not known.any():
        return ()
    formulas = residuals.compositions
    found: list[Coverage] = []
    count = None if residuals.calibration is None else residuals.calibration.n_frames
    groups: list[tuple[Kind, str, Array]] = [("all", "all", known)]
    groups += [("composition", f, known & (formulas == f)) for f in np.unique(formulas[known]).tolist()]
    for level in levels:
        covered = np.abs(error) <= norm.ppf((1 + level) / 2) * np.sqrt(variance)
        found += [_row(k, g, level, float(covered[m].mean()), int(m.sum()), count) for k, g, m in groups]
    return tuple(found)


def _weights(residuals: Residuals, known: Array) -> Array:
    """Return (N,) weights: one over the number of known atoms of the same frame and element."""
    _, code = np.unique(np.stack([residuals.frame, residuals.species]), axis=1, return_inverse=True)
    counts = np.bincount(code.ravel(), weights=known)
    return 1.0 / np.maximum(counts, 1.0)[code.ravel()]


def _groups(residuals: Residuals, known: Array) -> Iterator[tuple[Kind, str, Array]]:
    """Yield (kind, name, mask) of every group of the coverage."""
    yield "all", "all", known
    for z in sorted({int(z) for z in residuals.species[known]}):
        yield "element", chemical_symbols[z], known & (residuals.species == z)
    formulas = residuals.compositions[residuals.frame]
    for formula in np.unique(formulas[known]).tolist():
        yield "composition", formula, known & (formulas == formula)


def _evidence(
    calibration: Calibration | None, kind: Kind, elements: Sequence[int], level: float
) -> tuple[int | None, bool]:
    """Return the number of frames behind the quantiles of a group, and whether one is borrowed, which may cover too much."""
    if calibration is None:
        return None, False
    counts = [calibration.n_element_frames.get(z, calibration.n_frames) for z in elements]
    borrowed = any(count < confident_count(level) for count in counts)
    return (counts[0] if kind == "element" and not borrowed else calibration.n_frames), borrowed


def _row(
    kind: Kind,
    group: str,
    level: float,
    observed: float,
    n_frames: int,
    n_calibration: int | None,
    one_sided: bool = False,
) -> Coverage:
    if n_calibration is None or n_calibration < minimum_count(level):
        return Coverage(kind, group, level, observed, NAN, NAN, n_frames, None)
    low, high = coverage_limits(n_calibration, n_frames, level)
    high = 1.0 if one_sided else high
    return Coverage(kind, group, level, observed, low, high, n_frames, low <= observed <= high)
