"""Collect what is known of the error bars of a run: calibration constants, and observed coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ase.data import chemical_symbols
from pydantic import ConfigDict, Field

from blipcalc.calibration.coverage import Kind
from blipcalc.calibration.evaluation import EVALUATION
from blipcalc.core.contracts import Surface
from blipcalc.core.prediction import Calibration
from blipcalc.errors import ConfigurationError, DataError
from blipcalc.files.json_file import read_json
from blipcalc.model_file.manifest import StoredCalibration
from blipcalc.model_file.model_file import model_info
from blipcalc.monitor.limits import Limits
from blipcalc.report.frames import Traces
from blipcalc.report.html import table
from blipcalc.report.record import RunRecord
from blipcalc.settings import OR_NAN, Count, Settings, checked

#: settings that, with the model, determine the calibration constants
KEYS = ("surface", "n_draws", "seed")
#: file of ``blipcalc evaluate``
FILE = "evaluation.json"


Share = Annotated[float, Field(ge=0, le=1)]


class StoredCoverage(Settings):
    """Stored :class:`~blipcalc.calibration.coverage.Coverage`."""

    kind: Kind
    group: str
    level: Share
    observed: Annotated[Share, OR_NAN]
    low: Share | None
    high: Share | None
    n_frames: Count
    inside: bool | None


class StoredScores(Settings):
    """Stored scores of an evaluation, as far as a page shows them."""

    model_config = ConfigDict(extra="ignore")

    coverage: list[StoredCoverage]


class StoredEvaluation(Settings):
    """Stored evaluation, as far as a page shows it."""

    model_config = ConfigDict(extra="ignore")

    surface: Surface
    n_draws: Count
    forces: StoredScores


@dataclass(frozen=True)
class Reliability:
    """Calibration and observed coverage of the error bars of a run.

    calibration : None if not known
    said : its source, or why there is none, in words
    model_hash : empty if not known
    coverage : rows of the evaluation of forces
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
    """Return the reliability as recorded by the run, else from its model.

    Raises
    ------
    ConfigurationError : another model than that of the run
    DataError : a file without an evaluation, or one with other settings; ModelFileError : no such model
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
        if calibration is None and record.provenance is None:
            settings = {key: traces.provenance.get(key) for key in KEYS}
            found = [c for c in manifest["calibrations"] if {key: c[key] for key in KEYS} == settings]
            calibration = StoredCalibration.model_validate(found[0]).calibration() if found else None
            said = _from_model(settings, calibration)
        said, known = said + about + ("" if known else " Nothing in the folder proves that it was this one."), own
    rows = _coverage(evaluation, calibration)
    if rows and evaluation is not None:
        said += f" Observed coverage is from {Path(evaluation).name}."
    return Reliability(calibration, said, known, rows)


def _recorded(record: RunRecord) -> tuple[Calibration | None, str]:
    """Return the calibration recorded by the run, and a sentence on it."""
    if record.provenance is None:
        return (
            None,
            "The folder does not say how the error bars of this run were calibrated; give its model with --model.",
        )
    stored = record.provenance.calibration
    if stored is not None:
        c = stored.calibration()
        return c, (
            f"Calibrated on {c.n_frames} labelled frames for surface {c.surface}, K = {c.n_draws}, seed {c.seed}; "
            "constants as the run used them."
        )
    if record.provenance.settings.get("raw"):
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
    """Return a table of the calibration constants: a row for each element, the worst atom of a frame, and the energy."""
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


def _coverage(evaluation: str | Path | None, calibration: Calibration | None) -> tuple[Mapping[str, Any], ...]:
    """Return the rows of observed coverage."""
    if evaluation is None:
        return ()
    path = Path(evaluation)
    path = path / FILE if path.is_dir() else path
    said = read_json(path, EVALUATION)
    found = checked(StoredEvaluation, said, f"{path} is no evaluation", error=EVALUATION.error)
    settings = (found.surface, found.n_draws)
    if calibration is not None and settings != (calibration.surface, calibration.n_draws):
        raise DataError(
            f"{path} is of surface {settings[0]}, K = {settings[1]}; the run had {calibration.surface}, K = "
            f"{calibration.n_draws}; evaluate with these settings"
        )
    return tuple(row.model_dump() for row in found.forces.coverage)
