"""Draw a monitored run: largest per-atom force uncertainty and temperature against time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blipcalc.files.picture import finished
from blipcalc.monitor.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_history(
    history: History,
    threshold: float | None,
    path: str | Path | None = None,
    *,
    halts: Sequence[int] = (),
    title: str = "",
) -> Figure:
    """Draw ``max_atom_std`` and temperature against time (or step), with the threshold and the halts.

    Parameters
    ----------
    history : of a monitor
    threshold : largest ``atom_std`` that passes, eV/Å; None draws no line
    path : PNG to write; None: only return the figure
    halts : steps at which the run was halted
    """
    from matplotlib.figure import Figure  # heavy, and not needed to run

    steps, timed = history["step"], bool(len(history)) and bool(np.isfinite(history["time_fs"]).all())
    x = history["time_fs"] / 1000 if timed else steps
    has_temperature = bool(np.isfinite(history["temperature_K"]).any())
    figure = Figure(figsize=(7.0, 4.6 if has_temperature else 3.6), layout="constrained")
    panels = figure.subplots(
        2 if has_temperature else 1, sharex=True, squeeze=False, height_ratios=[2, 1][: 1 + has_temperature]
    )
    axes = panels[0, 0]
    _draw_uncertainty(axes, x, history, threshold)
    if has_temperature:
        panels[1, 0].plot(x, history["temperature_K"], lw=0.8, color="#666666")
        panels[1, 0].set(ylabel="temperature (K)", ylim=(0, None))
    for panel in panels[:, 0]:
        for i, where in enumerate(np.flatnonzero(np.isin(steps, list(halts)))):
            panel.axvline(x[where], lw=1.2, color="#333333", label="halt" if i == 0 else None)
    panels[-1, 0].set_xlabel("time (ps)" if timed else "step")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return finished(figure, path)


def _draw_uncertainty(axes: Axes, x: np.ndarray, history: History, threshold: float | None) -> None:
    """Draw the largest ``atom_std`` of each check, on a logarithmic axis if it spans more than a decade."""
    from matplotlib.ticker import LogLocator, NullLocator

    value, breached = history["max_atom_std"], history["breached"]
    known = value[np.isfinite(value) & (value > 0)]
    low, high = (known.min(), known.max()) if known.size else (1e-6, 1e-6)
    low, high = min(low, threshold or low), max(high, threshold or high)
    is_wide = high > 10 * low
    limits = (low / 1.5, 1.5 * high) if is_wide else (0.0, 1.1 * high)
    axes.plot(x, np.where(np.isfinite(value), value, np.nan), lw=1.0, color="#1f4e79", label="largest atom_std")
    if threshold is not None:
        axes.axhline(threshold, ls="--", lw=1.2, color="#b03a2e", label=f"threshold {threshold:.3g} eV/Å")
    if breached.any():
        height = np.where(np.isfinite(value[breached]), value[breached], high)
        axes.plot(x[breached], height, "x", ms=5, color="#b03a2e", label="breached")
    axes.set(ylabel="force uncertainty (eV/Å)", yscale="log" if is_wide else "linear", ylim=limits)
    if is_wide:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
