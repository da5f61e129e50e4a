"""Draw the figures of a run as SVG for an HTML page, without external files or fonts, in the page's text colour."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from scipy.stats import chi

from blipcalc.core.prediction import Calibration
from blipcalc.monitor.events import Event
from blipcalc.report.frames import Traces
from blipcalc.report.html import escape
from blipcalc.report.record import RunRecord
from blipcalc.report.thinning import evenly, thinned
from blipcalc.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: placeholder for the text colour of the page
INK = "#0a0b0c"
#: readable on white and on black
BLUE, RED, ORANGE, GREEN, PURPLE, GREY = "#3a7ebf", "#d0463b", "#d08a1e", "#3a9a5b", "#9467bd", "#8a8f94"
LINES = (BLUE, ORANGE, GREEN, PURPLE, "#b5651d", "#d65fa8", "#2aa5a5", GREY)
#: marker and colour of each kind of event
MARKS = {"warning": ("v", ORANGE), "halt": ("X", RED), "rollback": ("<", PURPLE)}
#: inches, width of a figure that fills the page
WIDTH = 7.6
#: most marked events of a kind; most elements that are drawn in separate colours
MOST_MARKS, MOST_ELEMENTS = 300, 8
#: ratio of the largest value to the median, above which an axis is logarithmic
WIDE = 20.0

Limit = float | Mapping[str, float] | None


def uncertainty_figure(record: RunRecord, limit: Limit) -> tuple[str, bool]:
    """Return a figure of the largest ``atom_std`` against time, with limits and events, and whether it is logarithmic.

    limit : on ``atom_std``, eV/Å: one, or {symbol: limit}
    """
    history = record.history
    value, time = history["max_atom_std"], record.at(history["step"], history["time_fs"])
    figure, (axes,) = _figure(1, 3.4)
    kept = thinned(value)
    axes.plot(time[kept], _finite(value[kept]), lw=1.1, color=BLUE, label="largest atom_std")
    is_wide = _scale(axes, value, limit)
    limits = {"": limit} if isinstance(limit, float) else dict(limit or {})
    for k, (symbol, height) in enumerate(sorted(limits.items(), key=lambda item: item[1])):
        if np.isfinite(height):
            colour = RED if not symbol else LINES[k % len(LINES)]
            label = f"limit{' for ' * bool(symbol)}{symbol} {height:.3g} eV/Å"
            axes.axhline(height, ls="--", lw=1.2, color=colour, label=label)
    broken = np.flatnonzero(~np.isfinite(value))
    if broken.size:
        shown = broken[evenly(len(broken), MOST_MARKS)]
        _on_top(axes, time[shown], "x", RED, "not finite")
    _mark_events(axes, record)
    axes.set(xlabel=_time(record), ylabel="force uncertainty (eV/Å)")
    _legend(axes)
    return svg(figure, "largest atom_std against time"), is_wide


def elements_figure(record: RunRecord, traces: Traces, limit: Limit) -> tuple[str, bool]:
    """Return a figure of the largest ``atom_std`` of each element along the trajectory, and whether it is logarithmic."""
    figure, (axes,) = _figure(1, 3.2)
    time = record.at(np.array(traces.step), np.array(traces.time_fs))
    order = sorted(traces.largest, key=lambda symbol: atomic_numbers[symbol])
    if len(order) > MOST_ELEMENTS:
        order = sorted(order, key=lambda symbol: -np.nanmax(_finite(np.array(traces.largest[symbol])), initial=0.0))
        order = order[:MOST_ELEMENTS]
    few = len(traces.step) < 60
    for k, symbol in enumerate(order):
        value = np.array(traces.largest[symbol])
        kept, colour = thinned(value), LINES[k % len(LINES)]
        axes.plot(time[kept], _finite(value[kept]), lw=1.1, color=colour, label=symbol, marker="." if few else None)
        if isinstance(limit, Mapping) and np.isfinite(limit.get(symbol, np.nan)):
            axes.axhline(limit[symbol], ls="--", lw=1.0, color=colour)
    is_wide = _scale(axes, np.concatenate([traces.largest[symbol] for symbol in order]), limit)
    if isinstance(limit, float):
        axes.axhline(limit, ls="--", lw=1.2, color=RED, label="limit")
    axes.set(xlabel=_time(record), ylabel="largest atom_std (eV/Å)")
    _legend(axes)
    return svg(figure, "largest atom_std of each element against time"), is_wide


def state_figure(record: RunRecord) -> str:
    """Return a figure of temperature and potential energy of every check against time."""
    history = record.history
    figure, (upper, lower) = _figure(2, 4.6)
    time, heat, energy = (
        record.at(history["step"], history["time_fs"]),
        history["temperature_K"],
        history["energy"],
    )
    kept = thinned(heat)
    upper.plot(time[kept], _finite(heat[kept]), lw=0.8, color=ORANGE, label="temperature")
    course = np.array(record.config.get("course", []), dtype=float)
    if course.ndim == 2 and len(course) and record.is_timed and record.config.get("ensemble") != "nve":
        upper.plot(time, np.interp(time, course[:, 0], course[:, 1]), ls="--", lw=1.2, color=INK, label="thermostat")
    upper.set_ylabel("temperature (K)")
    _legend(upper)
    finite = np.isfinite(energy)
    start = float(energy[finite][0]) if finite.any() else 0.0
    kept = thinned(energy)
    shown, std = _finite(energy[kept]) - start, _finite(history["energy_std"][kept])
    lower.fill_between(time[kept], shown - std, shown + std, color=BLUE, alpha=0.3, lw=0, label="± energy_std")
    lower.plot(time[kept], shown, lw=0.8, color=BLUE, label=f"potential energy, E₀ = {start:.3f} eV")
    lower.set(xlabel=_time(record), ylabel="E − E₀ (eV)")
    _legend(lower)
    return svg(figure, "temperature and potential energy against time")


def reliability_figure(calibration: Calibration, coverage: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return a figure of q_atom by level, in units of ``atom_std``, and of observed coverage if there is an evaluation.

    coverage : rows of ``evaluation.forces.coverage``
    """
    figure, axes = _figure(1, 3.6, columns=2 if coverage else 1, width=WIDTH if coverage else 5.0)
    levels = sorted({level for q in calibration.q_atom.values() for level in q} | set(calibration.q_frame))
    fine = np.linspace(min(levels, default=0.5), max(levels, default=0.99), 100)
    axes[0].plot(fine, chi.ppf(fine, 3), color=GREY, lw=1.2, ls="--", label="Gaussian errors")
    for k, (z, q) in enumerate(sorted(calibration.q_atom.items())):
        known = sorted(q)
        axes[0].plot(known, [q[v] for v in known], "o-", ms=4, lw=1, color=LINES[k % 8], label=chemical_symbols[z])
    whole = sorted(calibration.q_frame)
    axes[0].plot(
        whole, [calibration.q_frame[v] for v in whole], "s-", ms=4, lw=1, color=INK, label="worst atom of a frame"
    )
    axes[0].set(xlabel="level", ylabel="radius / atom_std")
    _legend(axes[0], columns=2)
    if coverage:
        _draw_coverage(axes[1], coverage)
    return svg(figure, "radii of force errors by level")


def _draw_coverage(axes: Axes, coverage: Sequence[Mapping[str, Any]]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, lw=1.2, ls="--", label="ideal")
    groups = dict.fromkeys((row["kind"], row["group"]) for row in coverage if row["kind"] in ("all", "element"))
    for k, (kind, group) in enumerate(groups):
        rows = sorted((r["level"], r["observed"]) for r in coverage if (r["kind"], r["group"]) == (kind, group))
        colour = INK if kind == "all" else LINES[(k - 1) % 8]
        axes.plot(*np.array(rows).T, "o-", ms=4, lw=1, color=colour, label="all atoms" if kind == "all" else group)
    limits = [r for r in coverage if r["kind"] == "all" and r["low"] is not None]
    if limits:
        at, low, high = np.array([(r["level"], r["low"], r["high"]) for r in limits]).T
        axes.vlines(at, low, high, color=INK, lw=4, alpha=0.3, label="99 % limits")
    least = 0.9 * min((row["observed"] for row in coverage), default=0.0)
    axes.set(xlabel="nominal coverage", ylabel="observed coverage", xlim=(least, 1.0), ylim=(least, 1.005))
    _legend(axes, columns=2)


def svg(figure: Figure, label: str) -> str:
    """Return a figure as an SVG element with unique ids, the page's text colour, no style sheet and no external links."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    (found,) = re.findall(r'<svg[^>]*viewBox="([^"]*)"[^>]*>(.*)</svg>', text, flags=re.DOTALL)
    box, inside = found
    stem = re.sub(r"\W+", "-", label)
    names = dict.fromkeys(re.findall(r'\bid="([^"]*)"', inside))
    names = {name: f"{stem}-{k}" for k, name in enumerate(names)}
    inside = re.sub(r'\bid="([^"]*)"', lambda m: f'id="{names[m[1]]}"', inside)
    inside = re.sub(r'(?:xlink:)?href="#([^"]*)"', lambda m: f'href="#{names[m[1]]}"', inside)
    inside = re.sub(r"url\(#([^)]*)\)", lambda m: f"url(#{names[m[1]]})", inside)
    inside = re.sub(r"\n\s*", "\n", inside).replace(INK, "currentColor")
    share = 100.0 * figure.get_figwidth() / WIDTH
    head = f'<svg class="plot" style="max-width:{share:.0f}%" viewBox="{box}" role="img" aria-label="{escape(label)}">'
    return f"{head}{inside}</svg>"


def _figure(rows: int, height: float, *, columns: int = 1, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """Return a figure outside of pyplot, size in inches, and its axes; rows share the time axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=rows > 1).ravel())
    for axes in panels:
        axes.set_facecolor("none")
        axes.tick_params(which="both", colors=INK, labelsize=8)
        axes.xaxis.label.set(color=INK, size=9)
        axes.yaxis.label.set(color=INK, size=9)
        axes.grid(color=INK, alpha=0.12, lw=0.6)
        for spine in axes.spines.values():
            spine.set_color(INK)
        for name in ("top", "right"):
            axes.spines[name].set_visible(False)
    return figure, panels


def _time(record: RunRecord) -> str:
    return "time (ps)" if record.is_timed else "step"


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _scale(axes: Axes, values: np.ndarray, limit: Limit) -> bool:
    """Set an axis to hold values and limits, logarithmic for a wide range; return whether it is logarithmic."""
    known = values[np.isfinite(values) & (values > 0)]
    limits = [
        v for v in (limit.values() if isinstance(limit, Mapping) else [limit]) if v is not None and np.isfinite(v)
    ]
    top = max([float(known.max(initial=0.0)), *limits])
    is_wide = bool(known.size) and top > WIDE * float(np.median(known))
    if is_wide:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.08 * top or 1.0)
    return is_wide


def _on_top(axes: Axes, at: np.ndarray, marker: str, colour: str, label: str) -> None:
    """Draw marks at the upper edge of the axes."""
    axes.plot(
        at, np.ones(len(at)), marker, ms=6, color=colour, label=label, clip_on=False,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def _mark_events(axes: Axes, record: RunRecord) -> None:
    """Mark events at the upper edge, and halts with a line."""
    kinds: dict[str, list[Event]] = {}
    for event in record.events:
        if event.event != "passed":  # the end of a breach that is already marked
            kinds.setdefault(event.event, []).append(event)
    for kind, events in kinds.items():
        marker, colour = MARKS.get(kind, ("d", GREY))
        chosen = [events[k] for k in evenly(len(events), MOST_MARKS)]
        times = [np.nan if event.time_fs is None else event.time_fs for event in chosen]
        at = record.at(np.array([event.step for event in chosen]), np.array(times))
        if kind == "halt":
            for place in at[np.isfinite(at)]:
                axes.axvline(place, lw=1.2, color=colour, alpha=0.8)
        _on_top(axes, at, marker, colour, kind)


def _legend(axes: Axes, columns: int = 4) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = axes.legend(
        handles, [printable(label) for label in labels],
        loc="lower left", bbox_to_anchor=(0, 1.02), ncols=columns, frameon=False, fontsize=8, labelcolor=INK,
        borderaxespad=0.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in a label is no mathematics
