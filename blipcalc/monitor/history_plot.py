"""Picture of a monitored run: the largest per-atom force uncertainty against time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blipcalc.files.safetensors_file import write_atomically
from blipcalc.monitor.history import History


def plot_history(
    history: History, threshold: float | None, path: str | Path, *, halts: Sequence[int] = (), title: str = ""
) -> None:
    """Draw ``max_atom_std`` against time (or step), with the threshold and the halts, as a PNG.

    Parameters
    ----------
    history : of a monitor
    threshold : largest ``atom_std`` that passes, eV/Å; None draws no line
    path : of the PNG
    halts : steps at which the run was halted
    """
    from matplotlib.figure import Figure  # heavy, and not needed to run

    steps, value, breached = history["step"], history["max_atom_std"], history["breached"]
    timed = bool(len(history)) and bool(np.isfinite(history["time_fs"]).all())
    x = history["time_fs"] / 1000 if timed else steps
    shown = value[np.isfinite(value)]
    top = 1.1 * max([float(v) for v in (shown.max() if shown.size else 0.0, threshold or 0.0)] + [1e-6])
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x, np.where(np.isfinite(value), value, np.nan), lw=1.0, color="#1f4e79", label="largest atom_std")
    if threshold is not None:
        axes.axhline(threshold, ls="--", lw=1.2, color="#b03a2e", label=f"threshold {threshold:.3g} eV/Å")
    if breached.any():
        height = np.where(np.isfinite(value[breached]), value[breached], top / 1.05)
        axes.plot(x[breached], height, "x", ms=5, color="#b03a2e", label="breached")
    for i, where in enumerate(np.flatnonzero(np.isin(steps, list(halts)))):
        axes.axvline(x[where], lw=1.2, color="#333333", label="halt" if i == 0 else None)
    axes.set(xlabel="time (ps)" if timed else "step", ylabel="force uncertainty (eV/Å)", ylim=(0, top))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(Path(path), buffer.getvalue())
