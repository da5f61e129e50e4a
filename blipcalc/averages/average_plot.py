"""Picture of a thermal average: an array against its axis, or a number, with bands of its errors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blipcalc.errors import ConfigurationError
from blipcalc.files.safetensors_file import write_atomically

if TYPE_CHECKING:
    from blipcalc.averages.average import ThermalAverage


def plot_average(found: ThermalAverage, path: str | Path, *, level: float = 0.95) -> None:
    """Draw the value, a band for the model error and one for the sampling error, and the draws, as a PNG.

    Parameters
    ----------
    found : an average of an array with an axis
    path : of the PNG
    level : of the band of the model error; that of the sampling error is two standard errors wide on either side

    Raises
    ------
    ConfigurationError : an average of a number
    """
    from matplotlib.figure import Figure  # heavy, and not needed to average

    if found.axis is None or found.value.ndim != 1:
        raise ConfigurationError(f"{found.name} is no curve but of shape {found.value.shape}; nothing to draw")
    x, estimate = found.axis.values, found.estimate
    low, high = estimate.interval(level)
    twice = 2.0 * found.sampling_error
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x, estimate.draws.T, lw=0.5, color="#9aa5b1", alpha=0.6)
    axes.fill_between(x, low, high, color="#1f4e79", alpha=0.25, lw=0, label=f"model error, {level:.0%}")
    axes.fill_between(
        x, found.value - twice, found.value + twice, color="#b03a2e", alpha=0.35, lw=0, label="sampling, ± 2 s.e."
    )
    axes.plot(x, found.value, lw=1.2, color="#102a43", label=f"K = {estimate.n_draws} draws, {found.temperature_K:g} K")
    axes.set(xlabel=f"{found.axis.name} ({found.axis.unit})", ylabel=_label(found), xlim=(x[0], x[-1]))
    axes.set_ylim(bottom=min(0.0, float(np.min(found.value))))
    axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(Path(path), buffer.getvalue())


def _label(found: ThermalAverage) -> str:
    return f"{found.name} ({found.estimate.unit})" if found.estimate.unit else found.name
