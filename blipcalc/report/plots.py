"""Plot the reliability of error bars, on figures outside of pyplot, whose state stays unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from scipy.stats import chi

from blipcalc.calibration.coverage import Coverage
from blipcalc.calibration.residuals import Residuals
from blipcalc.stats.scores import binned, coverage_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray
#: number of bins of equal count for the RMSE
N_BINS = 12
#: number of values above which hexagonal bins replace points
MANY = 2000


def reliability_plot(residuals: Residuals, path: str | Path, coverage: tuple[Coverage, ...] = ()) -> Path:
    """Plot observed against nominal coverage of force errors by element, for Gaussian errors; return the path.

    A curve below the diagonal is overconfident.  Each frame has weight 1, shared by its atoms of the element.

    residuals : labelled; atoms without a variance are left out
    path : of the picture; the suffix determines the format
    coverage : ``evaluation.forces.coverage``; its pooled rows are drawn as points with their 99 % limits
    """
    figure = _figure(5.0, 5.0)
    axes = figure.add_subplot()
    nominal, ratio = np.linspace(0.0, 1.0, 201), residuals.ratio
    radii = chi.ppf(nominal, 3)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="ideal")
    for z in residuals.elements:
        rows = (residuals.species == z) & ~np.isnan(ratio)
        if rows.any():
            observed = _weighted_distribution(ratio[rows], residuals.frame[rows], radii)
            axes.plot(nominal, observed, label=f"{chemical_symbols[z]} (Gaussian radii)")
    points = [row for row in coverage if row.kind == "all"]
    if points:
        _draw_coverage(axes, points)
    axes.set(
        xlabel="nominal coverage", ylabel="observed coverage of force errors", xlim=(0, 1), ylim=(0, 1), aspect="equal"
    )
    axes.legend(frameon=False)
    return _saved(figure, path)


def error_against_sigma_plot(residuals: Residuals, path: str | Path, level: float = 0.95) -> Path:
    """Plot the RMS component of force errors against atom_std, a log-log panel for each element; return the path.

    On the line 1:1 the error is one sigma; binned RMSE on that line means that sigma is correct at every size.  The second line
    is the conformal radius q_atom at ``level`` (that of Gaussian errors without a calibration).

    residuals : labelled; atoms without a positive variance are left out
    path : of the picture; its suffix chooses the format
    """
    sigma, error = residuals.atom_std, residuals.force_norm / np.sqrt(3.0)
    known = np.isfinite(sigma) & (sigma > 0) & np.isfinite(error) & ~residuals.silent_atoms
    elements = [z for z in residuals.elements if (known & (residuals.species == z)).any()]
    figure = _figure(3.6 * max(1, len(elements)), 3.8)
    panels = figure.subplots(1, max(1, len(elements)), squeeze=False, sharex=True, sharey=True)[0]
    for axes, z in zip(panels, elements, strict=False):
        rows = known & (residuals.species == z)
        _draw_errors(axes, sigma[rows], error[rows], _radius(residuals, z, level), level)
        axes.set(title=f"{chemical_symbols[z]}, {np.count_nonzero(rows)} atoms", xlabel="atom_std (eV/Å)")
    panels[0].set_ylabel("‖force error‖ / √3 (eV/Å)")
    if elements:
        panels[0].legend(frameon=False, loc="lower right")
    else:
        panels[0].set_title("no atom has an error bar")
    return _saved(figure, path)


def comparison_plot(
    residuals: Mapping[str, Residuals], path: str | Path, before: Mapping[str, Residuals] | None = None
) -> Path:
    """Plot the reliability of several models, with a panel each for energies and force components; return the path.

    Observed share of errors in the central Gaussian interval of each nominal level; below the diagonal is overconfident.

    residuals : {name: residuals on the same frames}; models without variances are left out
    before : the same residuals without calibration; dashed, in the colour of the model
    """
    figure = _figure(9.0, 4.5)
    levels = np.arange(1, 100) / 100
    for axes, quantity in zip(figure.subplots(1, 2), ("energy", "forces"), strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for k, (name, r) in enumerate(residuals.items()):
            styles = [("-", name, r)] + ([("--", None, before[name])] if before else [])
            for line, label, part in styles:
                observed = _central_coverage(part, quantity, levels)
                if observed is not None:
                    axes.plot(levels, observed, line, color=f"C{k % 10}", label=label)
        axes.set(title=quantity, xlabel="nominal coverage", ylabel="observed", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    if len(axes.lines) > 1:
        axes.legend(frameon=False, fontsize="small")
    return _saved(figure, path)


def _central_coverage(r: Residuals, quantity: str, levels: Array) -> Array | None:
    """Return the observed coverage of central Gaussian intervals; None without variances."""
    if quantity == "energy":
        error, variance, known = r.energy_error, r.energy_var, r.scored_energy
    else:
        error, variance, known = r.force_error, r.forces_var, r.scored
    return coverage_of(np.abs(error[known]) / np.sqrt(variance[known]), levels) if known.any() else None


def _figure(width: float, height: float) -> Figure:
    """Return a figure outside of pyplot, size in inches; matplotlib is imported with the first plot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _saved(figure: Figure, path: str | Path) -> Path:
    figure.savefig(path, dpi=150)
    return Path(path)


def _weighted_distribution(ratio: Array, frame: Array, radii: Array) -> Array:
    """Return the share of the ratios (n,) at or below each radius, with weight 1 for every frame."""
    _, code, counts = np.unique(frame, return_inverse=True, return_counts=True)
    order = np.argsort(ratio)
    reached = np.concatenate([[0.0], np.cumsum(1.0 / counts[code][order])]) / len(counts)
    return reached[np.searchsorted(ratio[order], radii, side="right")]


def _draw_coverage(axes: Axes, rows: list[Coverage]) -> None:
    """Draw the observed coverage at each level, with its limits if there are any."""
    level, observed = np.array([row.level for row in rows]), np.array([row.observed for row in rows])
    axes.plot(level, observed, "ko", markersize=4, label="pooled, as calibrated")
    limits = [(row.level, row.low, row.high) for row in rows if row.inside is not None]
    if limits:
        at, low, high = np.array(limits).T
        axes.vlines(at, low, high, color="k", linewidth=4, alpha=0.3, label="99 % limits")


def _radius(residuals: Residuals, z: int, level: float) -> float:
    """Return the conformal radius at a level; NaN for an element or level without calibration."""
    if residuals.calibration is None:
        return float(chi.ppf(level, 3))
    return residuals.calibration.q_atom.get(z, {}).get(level, float("nan"))


def _draw_errors(axes: Axes, sigma: Array, error: Array, q: float, level: float) -> None:
    """Draw points or hexagons, the lines of one sigma and of q, and the RMSE in bins of equal count."""
    axes.set(xscale="log", yscale="log")
    positive = error > 0
    draw: Callable[..., Any] = axes.hexbin if positive.sum() > MANY else axes.scatter
    style: dict[str, Any] = {"s": 4, "color": "0.6", "linewidths": 0}
    if draw == axes.hexbin:
        style = {"xscale": "log", "yscale": "log", "bins": "log", "gridsize": 50, "mincnt": 1, "cmap": "Greys"}
    if positive.any():
        draw(sigma[positive], error[positive], rasterized=True, **style)
    ends = np.array([sigma.min(), sigma.max()])
    axes.plot(ends, ends, color="C0", label="1 σ")
    if np.isfinite(q):
        axes.plot(ends, q * ends / np.sqrt(3.0), color="C1", linestyle="--", label=f"q at {level:g}")
    rms_error, rms_sigma = binned(error, sigma, N_BINS)
    axes.plot(rms_sigma, rms_error, "o-", color="C3", label="binned RMSE")
