"""Draw energies along a path and phonon bands, with error bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blipcalc.files.picture import finished
from blipcalc.properties.barrier import Barrier
from blipcalc.properties.phonons import Bands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED = "#1f4e79", "#b03a2e"


def plot_profile(found: Barrier, path: str | Path | None = None, *, title: str = "") -> Figure:
    """Draw the energy along a path: driving potential with a band of one error bar, every draw, and the images."""
    from matplotlib.figure import Figure  # heavy, and not needed to compute

    s, profile = found.profile(200)
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.add_subplot()
    std = profile.std
    axes.plot(s, profile.draws.T, lw=0.5, color="#999999")
    axes.fill_between(s, profile.value - std, profile.value + std, color=BLUE, alpha=0.2, lw=0, label="± one error bar")
    axes.plot(s, profile.value, lw=1.4, color=BLUE, label="driving potential")
    axes.plot(found.lengths, found.energies.value, "o", ms=4, color=BLUE)
    axes.axvline(found.saddle_at, ls="--", lw=1.0, color=RED, label=f"barrier {found.forward}")
    axes.set(xlabel="path (Å)", ylabel="energy (eV)", title=title, xlim=(s[0], s[-1]))
    axes.legend(frameon=False, fontsize=8)
    return finished(figure, path)


def plot_bands(bands: Bands, path: str | Path | None = None, *, title: str = "") -> Figure:
    """Draw phonon bands: driving potential, with one error bar of each branch."""
    from matplotlib.figure import Figure  # heavy, and not needed to compute

    x, ticks, names = bands.path.get_linear_kpoint_axis()
    value, std = bands.frequencies.value, bands.frequencies.std
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for branch in range(value.shape[1]):
        low, high = value[:, branch] - std[:, branch], value[:, branch] + std[:, branch]
        axes.fill_between(x, low, high, color=BLUE, alpha=0.25, lw=0)
        axes.plot(x, value[:, branch], lw=1.0, color=BLUE)
    for tick in ticks:
        axes.axvline(tick, lw=0.6, color="#333333")
    axes.axhline(0, lw=0.6, color="#333333")
    axes.set_xticks(np.asarray(ticks), names)
    axes.set(ylabel="frequency (cm⁻¹)", title=title, xlim=(x[0], x[-1]))
    return finished(figure, path)
