"""Draw a curve with its error band."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blipcalc.files.picture import finished
from blipcalc.stats.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_band(
    x: np.ndarray,
    curve: Estimate,
    path: str | Path | None = None,
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    level: float = 0.95,
) -> Figure:
    """Draw a curve with ± one error bar, its interval, and all draws as thin lines.

    Parameters
    ----------
    x : (S,); curve : (S,) values
    path : PNG to write; None: only return the figure
    level : of the interval
    """
    from matplotlib.figure import Figure  # heavy, and not needed for numbers

    figure = Figure(figsize=(7.0, 3.8), layout="constrained")
    axes = figure.add_subplot()
    low, high = curve.interval(level)
    colour, name = "#1f4e79", "draws, before calibration" if curve.calibrated else "draws"
    axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0, label=f"{100 * level:g} % interval")
    axes.fill_between(x, curve.value - curve.std, curve.value + curve.std, color=colour, alpha=0.3, lw=0, label="± std")
    for k, draw in enumerate(curve.draws):
        axes.plot(x, draw, lw=0.4, color="#777777", label=name if k == 0 else None)
    axes.plot(x, curve.value, lw=1.6, color=colour, label="driving potential")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return finished(figure, path)
