"""What is known of the error bars of a run: the constants of its calibration, and coverage where it was evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols
from pydantic import ValidationError

from blipcalc.calibration.coverage import Coverage
from blipcalc.checkpoint import model_info
from blipcalc.core.prediction import Calibration
from blipcalc.errors import ConfigurationError, DataError
from blipcalc.manifest import StoredCalibration
from blipcalc.monitor.limits import Limits
from blipcalc.report.frames import Traces
from blipcalc.report.html import table
from blipcalc.report.record import RunRecord

#: what constants belong to, beside the model
KEYS = ("surface", "n_draws", "seed")
#: file of ``blipcalc evaluate``
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Reliability:
    """What a page says of error bars.

    calibration : None where none is known
    said : where it comes from, or why there is none
    model_hash : empty where nothing says it
    coverage : rows of the evaluation, of forces
    """

    calibration: Calibration | None
    said: str
    model_hash: str = ""
    coverage: tuple[Mapping[str, Any], ...] = ()


def read_reliability(
    record: RunRecord,
    traces: Traces,
    model: str | Path | None,
    limits: Limits | None,
    evaluation: str | Path | None,
) -> Reliability:
    """From what the run wrote down, else from its model.

    Raises
    ------
    ConfigurationError : another model than the one of the run
    DataError : an evaluation that is none, or of other settings; ModelFileError : no such model
    """
    calibration, said = _recorded(record)
    known = calibration.model_hash if calibration is not None else limits.identity.model_hash if limits else ""
    if model is not None:
        manifest = model_info(model)
        own = manifest["model_hash"]
        if known and own != known:
            raise ConfigurationError(
                f"{model} is model {own[:12]}…, the run had {known[:12]}…; give the model of the run, or none"
            )
        about = f" Model {Path(model).name}: {manifest['architecture']}, posterior {manifest['posterior']}."
        if calibration is None and not record.provenance:
            settings = {key: traces.provenance.get(key) for key in KEYS}
            found = [c for c in manifest["calibrations"] if {key: c[key] for key in KEYS} == settings]
            calibration = _calibration(found[0]) if found else None
            said = _from_model(settings, calibration)
        said, known = said + about + ("" if known else " Nothing in the folder proves that it was this one."), own
    rows = _coverage(evaluation, calibration)
    if rows:
        said += f" Observed coverage is from {Path(evaluation).name}."
    return Reliability(calibration, said, known, rows)


def _recorded(record: RunRecord) -> tuple[Calibration | None, str]:
    """The calibration that the run wrote down, and a sentence on it."""
    if not record.provenance:
        return (
            None,
            "The folder does not say how the error bars of this run were calibrated; give its model with --model.",
        )
    stored = record.provenance.get("calibration")
    if stored is not None:
        try:
            c = _calibration(stored)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DataError(
                f"{record.folder}: its record of the calibration is damaged at {where}: {first['msg']}"
            ) from None
        return c, (
            f"Calibrated on {c.n_frames} labelled frames for surface {c.surface}, K = {c.n_draws}, seed {c.seed}; "
            "constants as the run used them."
        )
    if record.provenance.get("settings", {}).get("raw"):
        return (
            None,
            "UNCALIBRATED: the run used posterior values as they are, so no atom_std here has a stated coverage.",
        )
    return (
        None,
        "UNCALIBRATED: no calibration belongs to what drove this run, so no atom_std here has a stated coverage.",
    )


def _from_model(settings: Mapping[str, Any], calibration: Calibration | None) -> str:
    named = ", ".join(f"{key} {value}" for key, value in settings.items())
    if calibration is None:
        return f"The model holds no constants for {named}, which is what the frames say of the run."
    return f"Constants of the model for {named}, calibrated on {calibration.n_frames} labelled frames."


def calibration_table(c: Calibration) -> str:
    """The constants, an element a row, and the frame's below."""
    levels = sorted({level for q in (*c.q_atom.values(), c.q_frame) for level in q})
    head = ("", "factor on σ", *(f"q at {level:.0%}" for level in levels), "atoms", "frames")
    rows = []
    for z, scale in sorted(c.scale.items()):
        quantiles = [_number(c.q_atom.get(z, {}).get(level)) for level in levels]
        counts = [str(of[z]) if z in of else "" for of in (c.n_atoms, c.n_element_frames)]
        rows.append((chemical_symbols[z], f"{scale**0.5:.3f}", *quantiles, *counts))
    frame = [_number(c.q_frame.get(level)) for level in levels]
    rows.append(("worst atom of a frame", "", *frame, "", str(c.n_frames)))
    rows.append(("energy", f"{c.scale_energy**0.5:.3f}", *[""] * len(levels), "", str(c.n_frames)))
    return table(head, rows, ("nowrap", *["n"] * (len(head) - 1)))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _calibration(stored: Mapping[str, Any]) -> Calibration:
    return Calibration(**StoredCalibration.model_validate(stored).model_dump())


def _coverage(evaluation: str | Path | None, calibration: Calibration | None) -> tuple[Mapping[str, Any], ...]:
    """Rows of observed coverage."""
    if evaluation is None:
        return ()
    path = Path(evaluation)
    path = path / EVALUATION if path.is_dir() else path
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        rows = [{f.name: row[f.name] for f in fields(Coverage)} for row in said["forces"]["coverage"]]
        settings = (said["surface"], said["n_draws"])
    except FileNotFoundError:
        raise DataError(f"no file {path}; expected {EVALUATION} of 'blipcalc evaluate', or its folder") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no evaluation: {type(error).__name__} {error}; make it with 'blipcalc evaluate'"
        ) from None
    if calibration is not None and settings != (calibration.surface, calibration.n_draws):
        raise DataError(
            f"{path} is of surface {settings[0]}, K = {settings[1]}; the run had {calibration.surface}, K = "
            f"{calibration.n_draws}; evaluate with these settings"
        )
    return tuple(rows)
