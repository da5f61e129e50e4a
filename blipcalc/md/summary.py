"""Define and read the schemas of a run's summary and checkpoints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from blipcalc.errors import SchemaError
from blipcalc.files.json_file import Kind, finite, read_json, write_json
from blipcalc.files.run_folder import last_checkpoint
from blipcalc.md.integrators import IntegratorConfig
from blipcalc.model_file.manifest import StoredCalibration
from blipcalc.monitor.observer import Status
from blipcalc.settings import OR_NAN, AtLeastOne, Count, Fraction, NotNegative, Positive, Settings, checked, number

#: kind of file that holds a summary
RUN_SUMMARY = Kind(
    "summary of a run",
    "remove it, and the folder is that of a run which has not ended: its checkpoints hold the rest, and the same call goes on",
)


@dataclass(frozen=True)
class MDSummary:
    """Result of an MD run.

    status : ``finished``, ``halted`` by the monitor, or ``stopped`` by a signal or other code
    time_ps : simulated time; wall_seconds : wall time, over all resumptions
    temperature_K : mean over the checked steps
    max_atom_std : largest per-atom force uncertainty of all checks, eV/Å
    limit : on ``atom_std``, eV/Å; None without a single limit
    reason : of the halt; None without one
    is_finite : False if the run was halted by a value that is not finite, has no variance, or was not calibrated
    """

    status: Status
    steps: Count
    time_ps: NotNegative
    wall_seconds: NotNegative
    temperature_K: Annotated[NotNegative, OR_NAN]
    max_atom_std: Annotated[NotNegative, OR_NAN]
    limit: NotNegative | None
    reason: str | None
    is_finite: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values for JSON."""
        return finite(asdict(self))


def _of_a_number(text: str) -> str:
    number("threshold", float(text), above=-1e-300, infinite=True)
    return text


class StoredMonitor(Settings):
    """Stored settings of the monitor, see :meth:`~blipcalc.monitor.observer.UncertaintyMonitor.settings`."""

    tolerance: Positive | None
    level: Fraction
    threshold: dict[str, Annotated[str, AfterValidator(_of_a_number)] | None]
    limits: str | None
    rules: list[str]
    every: AtLeastOne
    actions: list[str]


class StoredConfig(IntegratorConfig):
    """Stored settings of a run."""

    course: list[tuple[float, Positive]] = Field(min_length=1)
    seed: Count
    write_every: AtLeastOne
    trajectory: str | None
    monitor: StoredMonitor
    time_ps: Positive
    keep_draws: bool
    checkpoint_every: AtLeastOne | None = None


class StoredProvenance(Settings):
    """Stored settings, calibration and versions behind the results, see :func:`~blipcalc.md.restart.provenance`."""

    settings: dict[str, Any]
    calibration: StoredCalibration | None
    versions: dict[str, str]


class StoredRun(Settings):
    """Identity and settings of a run, as stored in its summary.

    probe : {part of the calculator that declares no identity: {quantity: numbers on a probe structure, eV and Å}}
    """

    identity: str
    probe: dict[str, dict[str, list[float | None]]]
    config: StoredConfig
    environment: dict[str, str | bool | int | float | None]
    provenance: StoredProvenance


class StoredCheckpoint(StoredRun):
    """Identity, settings and state of a run, as stored in a checkpoint."""

    kind: Literal["MD checkpoint"]
    step: Count
    seconds: NotNegative
    rng: dict[str, Any]
    monitor: dict[str, Any]
    observers: list[dict[str, Any] | None]
    frames: dict[str, Count]


class _Summary(Settings):
    summary: MDSummary
    run: StoredRun


def write_summary(path: Path, summary: MDSummary, run: dict[str, Any]) -> None:
    """Write the summary of a run, with its identity and settings."""
    write_json(path, RUN_SUMMARY, summary.to_dict() | {"run": run})


def read_summary(path: Path) -> tuple[MDSummary, StoredRun] | None:
    """Return the summary and the run of :func:`write_summary`; None without a file.

    raises : DataError for a file without a summary, DamagedFileError for one changed after it was written
    """
    if not path.exists():
        return None
    said = read_json(path, RUN_SUMMARY)
    parts = {"run": said.pop("run", None), "summary": said}
    found = checked(_Summary, parts, f"{path} is no summary of run_md", error=RUN_SUMMARY.error)
    return found.summary, found.run


def read_checkpoint(folder: Path) -> StoredCheckpoint | None:
    """Return the figures of the newest whole checkpoint of a run folder; None without one.

    raises : SchemaError for a checkpoint of anything but MD
    """
    found = last_checkpoint(folder)
    if found is None:
        return None
    return checked(StoredCheckpoint, found[1], f"{folder} holds no checkpoint of run_md", error=SchemaError)
