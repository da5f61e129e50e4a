"""Write one page about a monitored MD run: a single HTML file without external content."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from blipcalc.errors import ConfigurationError, LimitsError
from blipcalc.files.safetensors_file import write_atomically
from blipcalc.md.restart import versions
from blipcalc.monitor.limits import Limits
from blipcalc.report.figures import Limit, elements_figure, reliability_figure, state_figure, uncertainty_figure
from blipcalc.report.frames import Frame, Traces, read_traces
from blipcalc.report.html import facts, figure, folded, heading, page, paragraph, table
from blipcalc.report.record import RunRecord, file_hashes, read_run
from blipcalc.report.reliability import Reliability, calibration_table, read_reliability
from blipcalc.report.structure import MOST_ATOMS, structure_view
from blipcalc.report.thinning import MOST
from blipcalc.report.words import event_rows, head_facts, outcome, plain, rule_text, size

#: name of the page in a run folder
REPORT = "report.html"
#: most events in the table from either end
MOST_EVENTS = 1000
#: sentence on thinned lines
THINNED = "Every bin of checks shows its largest and smallest value and its first gap, so that no peak is lost."
LOGARITHMIC = "The upright axis is logarithmic."


def write_report(
    folder: str | Path,
    path: str | Path | None = None,
    *,
    model: str | Path | None = None,
    limits: Limits | str | Path | None = None,
    evaluation: str | Path | None = None,
) -> Path:
    """Write one self-contained HTML page about a run folder of ``run_md`` or ``blipcalc md``.

    Parameters
    ----------
    folder : of the run
    path : of the page; by default ``report.html`` in the folder
    model : the model file or bundled model of the run, for its description
    limits : of the run's monitor, or their file
    evaluation : ``evaluation.json`` of ``blipcalc evaluate``, or its folder, for observed coverage

    Returns
    -------
    path of the page

    Raises
    ------
    DataError : no run folder, or a file in it with other content
    DamagedFileError : a file changed after it was written
    ConfigurationError : another model than that of the run, or a path that is a folder
    LimitsError : limits other than those of the run
    ModelFileError : no such model
    """
    folder = Path(folder)
    record = read_run(folder)
    path = folder / REPORT if path is None else Path(path)
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder; give the name of the page, such as {path / REPORT}")
    limits = Limits.load(limits) if isinstance(limits, str | Path) else limits
    _check_limits(record, limits)
    traces = read_traces(record.trajectory)
    reliability = read_reliability(record, traces, model, limits, evaluation)
    limit = _limit(record, limits)
    title = f"{traces.formula or 'MD run'}: {folder.resolve().name}"
    body = [
        *_head(record, traces, limits, limit, title),
        *_uncertainty(record, limit),
        *_elements(record, traces, limit),
        *_structure(record, traces),
        *_state(record),
        *_reliability(reliability),
        *_events(record),
        *_versions(record, reliability, limits, file_hashes(folder, path)),
    ]
    write_atomically(path, page(title, body).encode())
    return path


def _limit(record: RunRecord, limits: Limits | None) -> Limit:
    """Return the limit on ``atom_std``, eV/Å: one, or one for each element; None if not known."""
    if limits is not None:
        largest = limits.ratio_limit()
        return None if largest is None else {s: largest * limits.tolerance / q for s, q in limits.quantiles.items()}
    if record.summary is not None and record.summary.limit is not None:
        return float(record.summary.limit)
    thresholds = record.config.get("monitor", {}).get("threshold", {})
    return {symbol: float(value) for symbol, value in thresholds.items() if symbol and value is not None} or None


def _check_limits(record: RunRecord, limits: Limits | None) -> None:
    """Raise LimitsError for limits other than those of the run; a run without a record accepts any."""
    if limits is None or "monitor" not in record.config:
        return
    own, given = record.config["monitor"].get("limits"), limits.hash
    if own != given:
        by = "no limits" if own is None else f"limits {own[:12]}…"
        raise LimitsError(
            f"{record.folder} was guarded by {by}, these are {given[:12]}…; give the file that the run had, or none"
        )


def _head(record: RunRecord, traces: Traces, limits: Limits | None, limit: Limit, title: str) -> list[str]:
    kind, sentence = outcome(record)
    return [
        heading(title, 1),
        paragraph(sentence, f"outcome {kind}"),
        facts(head_facts(record, traces, limit)),
        paragraph(rule_text(record, limits)),
    ]


def _uncertainty(record: RunRecord, limit: Limit) -> list[str]:
    head = heading("Largest force uncertainty")
    if not len(record.history):
        return [
            head,
            paragraph("No check was kept: the run ended before its first one, or history.csv is not here."),
        ]
    drawing, is_wide = uncertainty_figure(record, limit)
    said = [
        "Each point is the largest atom_std, the error bar of a force component, of all atoms at one check; marks on the upper "
        "rim are events.",
        "A peak means that the model knows little like this structure; it does not say that the force is wrong, and a low "
        "line does not say that the trajectory is right.",
        "The line holds the structures that were rolled back as they were refused; the trajectory does not."
        if any(event.event == "rollback" for event in record.events)
        else "",
        LOGARITHMIC if is_wide else "",
        THINNED if len(record.history) > MOST else "",
    ]
    return [head, figure(drawing, _joined(said))]


def _elements(record: RunRecord, traces: Traces, limit: Limit) -> list[str]:
    head = heading("Largest force uncertainty of each element")
    if not traces.step:
        why = (
            "there is no trajectory in the folder" if record.trajectory is None else "its frames hold no uncertainties"
        )
        return [head, paragraph(f"Not shown: {why}.")]
    drawing, is_wide = elements_figure(record, traces, limit)
    said = [
        f"From the {len(traces.step)} of {traces.n_frames} frames of the trajectory that hold uncertainties, often fewer than "
        "the checks: a short peak may be missing here.",
        "The element that rises first is where to look, in the structure below and in the training data.",
        LOGARITHMIC if is_wide else "",
    ]
    return [head, figure(drawing, _joined(said))]


def _structure(record: RunRecord, traces: Traces) -> list[str]:
    head = heading("The structure to look at")
    frame, why = chosen_frame(record, traces)
    if frame is None:
        return [head, paragraph("Not shown: no frame of a trajectory with finite positions is in the folder.")]
    worst = frame.worst_atom
    halt = record.halt
    if halt is not None and frame.step == halt.step and not np.isfinite(frame.atom_std).any() and halt.atoms:
        worst = halt.atoms[0]
    symbol, std = frame.atoms.get_chemical_symbols()[worst], frame.atom_std[worst]
    size = f"atom_std {std:.3g} eV/Å" if math.isfinite(std) else "whose atom_std is not known"
    said = [
        f"{why}, step {frame.step}; the ring marks the most uncertain atom, {symbol} {worst}, {size}.",
        "Colours are relative to this frame: dark is the largest error bar here, whether it is large or not; grey is unknown.",
        f"Only the {MOST_ATOMS} atoms nearest to it are drawn." if len(frame.atoms) > MOST_ATOMS else "",
        "Atoms stand at their images nearest to it." if frame.atoms.pbc.any() else "",
    ]
    return [head, figure(structure_view(frame, worst), _joined(said))]


def chosen_frame(record: RunRecord, traces: Traces) -> tuple[Frame | None, str]:
    """Return the frame that halted the run, if stored, else the one with the largest uncertainty, and a sentence on it."""
    last, history = traces.last, record.history
    if record.is_halted and last is not None and last.step == record.step:
        checked = np.flatnonzero(history["step"] == record.step)
        # after a roll-back the last frame is the restored one, not the one that halted
        own = float(last.atom_std[last.mask].max()) if last.mask.any() else math.nan
        if not math.isfinite(own) or not checked.size or own >= history["max_atom_std"][checked[-1]] * (1 - 1e-6):
            return last, "The frame that halted the run"
    if traces.worst is not None:
        return traces.worst, "The frame of the trajectory with the largest uncertainty"
    return last, "The last frame; none of the trajectory has a known uncertainty"


def _state(record: RunRecord) -> list[str]:
    if not len(record.history):
        return []
    said = (
        "Temperature and potential energy at every check; the band is one energy_std to either side. "
        "Swings are those of a small system; a drift of the temperature away from the thermostat, or a step in the energy, is "
        "a sign of a structure that reacts or breaks. " + THINNED * (len(record.history) > MOST)
    )
    return [heading("Temperature and energy"), figure(state_figure(record), said)]


def _reliability(found: Reliability) -> list[str]:
    head, parts = heading("What the error bars are worth"), [paragraph(found.said)]
    c = found.calibration
    if c is None:
        return [head, *parts]
    said = [
        f"q_atom of each element: an error of one atom lies within this many atom_std with the probability of the level, "
        f"on structures like the {c.n_frames} frames of the calibration; squares are for the worst atom of a whole frame.",
        "A curve above the dashed line has heavier tails than Gaussian errors.",
        "Right: share of labelled errors within the radius; below the diagonal is overconfident."
        if found.coverage
        else "",
        "None of this is promised for structures unlike those frames.",
    ]
    drawing = reliability_figure(c, found.coverage)
    return [head, *parts, figure(drawing, _joined(said)), calibration_table(c)]


def _events(record: RunRecord) -> list[str]:
    head = heading("Events")
    if not record.events:
        return [head, paragraph("None: no warning, no halt, nothing rolled back.")]
    events, parts = record.events, [head]
    if len(events) > 2 * MOST_EVENTS:
        parts.append(
            paragraph(
                f"The first and the last {MOST_EVENTS} of {len(events)}; events.jsonl in the folder holds them all."
            )
        )
        events = events[:MOST_EVENTS] + events[-MOST_EVENTS:]
    names = ("event", "step", "time (ps)", "atoms, worst first", "value", "threshold", "unit", "reason")
    kinds = ("nowrap", "n", "n", "", "n", "n", "nowrap", "")
    return [*parts, table(names, event_rows(events), kinds)]


def _versions(
    record: RunRecord, reliability: Reliability, limits: Limits | None, files: Mapping[str, tuple[int, str]]
) -> list[str]:
    now = versions()
    then = {**record.environment, **({} if record.provenance is None else record.provenance.versions)}
    rows = [(name, str(then.get(name, "not recorded")), now.get(name, "")) for name in dict.fromkeys([*now, *then])]
    identity = [("run (structure and calculator)", record.identity or "not recorded")]
    for part, numbers in record.probe.items():
        identity.append((f"{part}, numbers on a probe structure", plain(numbers)))
    identity.append(("model", reliability.model_hash or "not recorded; give --model"))
    if limits is not None:
        identity.append(("limits", limits.hash))
        identity += [(f"limits: {name}", str(value)) for name, value in limits.identity.model_dump().items()]
    elif record.config.get("monitor", {}).get("limits"):
        identity.append(("limits", record.config["monitor"]["limits"]))
    settings: dict[str, Any] = {**record.config, **({} if record.provenance is None else record.provenance.settings)}
    stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [
        heading("Versions and hashes"),
        table(("", "in the run", "when this page was written"), rows, ("nowrap", "", "")),
        table(("identity", "SHA-256 or value"), identity, ("nowrap", "code")),
        table(
            ("file", "size", "SHA-256"),
            [(name, size(n), digest) for name, (n, digest) in files.items()],
            ("nowrap", "n", "code"),
        ),
        folded(
            "All settings of the run",
            table(("setting", "value"), [(k, plain(v)) for k, v in settings.items()], ("nowrap", "")),
        ),
        paragraph(f"Written {stamp}. The hashes are those of the files at that time."),
    ]


def _joined(sentences: list[str]) -> str:
    return " ".join(sentence for sentence in sentences if sentence)
