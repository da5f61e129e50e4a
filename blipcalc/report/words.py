"""Describe a run in words: outcome, monitor, settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from blipcalc.monitor.events import Event
from blipcalc.monitor.limits import Limits
from blipcalc.report.frames import Traces
from blipcalc.report.record import RunRecord

#: most atoms of an event that are listed
MOST_ATOMS = 8


def outcome(record: RunRecord) -> tuple[str, str]:
    """Return kind and sentence of the outcome of a run."""
    summary, far = record.summary, _far(record)
    if summary is None:
        return "unfinished", f"Not ended: it runs still, or was killed; seen up to {far}. The same call goes on."
    if summary.status == "finished":
        return "finished", f"Finished: {far}; the guard let it pass."
    if summary.status == "halted" and summary.is_finite:
        return "halted", f"Halted by the guard at {far}: {summary.reason}"
    if summary.status == "halted":
        return "halted", f"Halted at {far}, since something has no finite value: {summary.reason}"
    return "stopped", f"Stopped early, after {far}, by a signal or by somebody else; the same call goes on."


def head_facts(record: RunRecord, traces: Traces, limit: float | Mapping[str, float] | None) -> list[tuple[str, str]]:
    """Return names and values for the head of the page."""
    summary, config, history = record.summary, record.config, record.history
    found = [("structure", traces.formula or "not known: no trajectory")]
    planned = f" of {config['time_ps']:g}" if "time_ps" in config else ""
    far = "not known" if math.isnan(record.time_ps) else f"{record.time_ps:.4g}{planned} ps"
    found.append(("simulated time", far))
    found.append(("steps", f"{record.step}" + (f" of {config['timestep_fs']:g} fs" if "timestep_fs" in config else "")))
    if math.isfinite(record.seconds) and record.seconds > 0 and record.step:
        found.append(("wall time", f"{duration(record.seconds)} ({1e3 * record.seconds / record.step:.3g} ms a step)"))
    if summary is not None and math.isfinite(summary.temperature_K):
        found.append(("mean temperature", f"{summary.temperature_K:.0f} K{_course(config)}"))
    elif len(history):
        found.append(("mean temperature", f"{history['temperature_K'].mean():.0f} K{_course(config)}"))
    if len(history):
        found.append(("largest atom_std", _largest(record)))
    if limit is not None:
        found.append(("limit on atom_std", limit_text(limit)))
    counts = Counter(event.event for event in record.events)
    found.append(("events", ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "none"))
    if "ensemble" in config:
        found.append(("ensemble", str(config["ensemble"])))
    if "monitor" in config:
        every = config["monitor"].get("every", "?")
        found.append(("checks", f"{len(history)}, {'one a step' if every == 1 else f'one every {every} steps'}"))
    return found


def rule_text(record: RunRecord, limits: Limits | None) -> str:
    """Return a description of the criteria and actions of the run's monitor."""
    monitor = record.config.get("monitor")
    if monitor is None:
        return "The folder does not say what the guard went by."
    said = []
    if monitor.get("tolerance") is not None:
        said.append(
            f"The run goes on while q_frame · largest atom_std ≤ {monitor['tolerance']:g} eV/Å, with q_frame at level "
            f"{monitor['level']:.0%}."
        )
    if limits is not None:
        said.append(
            f"The run goes on within limits for at most {limits.rate_per_ns:g} false alarms per ns (expected "
            f"{limits.expected_rate:.2g}), from {limits.reference_ns:.3g} ns of reference."
        )
    elif monitor.get("limits") is not None:
        said.append(
            "The run goes on within limits with a stated rate of false alarms; give their file for what they say "
            f"(SHA-256 {monitor['limits'][:12]}…)."
        )
    if any(value is not None for value in monitor.get("threshold", {}).values()):
        said.append("The run goes on while atom_std is below a plain threshold.")
    rules, actions = monitor.get("rules", []), monitor.get("actions", [])
    said.append(f"Further rules: {', '.join(rules) or 'none'}. At a breach: {', '.join(actions) or 'nothing'}.")
    return " ".join(said)


def event_rows(events: Iterable[Event]) -> list[tuple[str, ...]]:
    """Return the rows of the table of events."""
    rows: list[tuple[str, ...]] = []
    for e in events:
        atoms = [f"{symbol} {index}" for symbol, index in zip(e.symbols, e.atoms, strict=False)]
        shown = ", ".join(atoms[:MOST_ATOMS])
        shown += f" and {len(atoms) - MOST_ATOMS} more" if len(atoms) > MOST_ATOMS else ""
        time = "" if e.time_fs is None else f"{e.time_fs / 1000:.6g}"
        value, threshold = ("not finite" if x is None else f"{x:.4g}" for x in (e.value, e.threshold))
        rows.append((e.event, str(e.step), time, shown, value, threshold, e.unit, e.reason))
    return rows


def limit_text(limit: float | Mapping[str, float]) -> str:
    """Return the text of a limit on ``atom_std``, or of one for each element."""
    if isinstance(limit, float):
        return f"{limit:.4g} eV/Å"
    return ", ".join(f"{symbol} {value:.4g}" for symbol, value in limit.items()) + " eV/Å"


def duration(seconds: float) -> str:
    """Return the text of a duration."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def size(n_bytes: int) -> str:
    """Return the text of a file size."""
    return (
        f"{n_bytes} B" if n_bytes < 1000 else f"{n_bytes / 1e3:.3g} kB" if n_bytes < 1e6 else f"{n_bytes / 1e6:.4g} MB"
    )


def plain(value: Any) -> str:
    """Return a setting as text."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {plain(entry)}".strip() for key, entry in value.items() if entry is not None) or "none"
    if isinstance(value, list):
        return ", ".join(plain(entry) for entry in value) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _far(record: RunRecord) -> str:
    time = "" if math.isnan(record.time_ps) else f"{record.time_ps:.4g} ps, "
    return f"{time}step {record.step}"


def _course(config: Mapping[str, Any]) -> str:
    course = config.get("course")
    if not course or config.get("ensemble") == "nve":
        return ""
    if len(course) == 1:
        return f", thermostat at {course[0][1]:g} K"
    heats = [heat for _, heat in course]
    return f", thermostat from {heats[0]:g} to {heats[-1]:g} K"


def _largest(record: RunRecord) -> str:
    """Return the text of the largest finite ``atom_std``, its atom and step, and the number of checks without one."""
    values = record.history["max_atom_std"]
    known = [k for k, value in enumerate(values) if math.isfinite(value)]
    broken = f"; not finite in {len(values) - len(known)} checks" if len(known) < len(values) else ""
    if not known:
        return f"never finite ({len(values)} checks)"
    k = max(known, key=lambda k: values[k])
    step, atom = int(record.history["step"][k]), int(record.history["worst_atom"][k])
    return f"{values[k]:.4g} eV/Å, atom {atom}, step {step}{broken}"
