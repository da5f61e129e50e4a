"""What a run folder says of its run, in the summary and in checkpoints: schemas, and how they are read."""

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

#: as a file
RUN_SUMMARY = Kind(
    "summary of a run",
    "remove it, and the folder is that of a run which has not ended: its checkpoints hold the rest, and the same call goes on",
)


@dataclass(frozen=True)
class MDSummary:
    """What became of a run.

    status : ``finished``, ``halted`` by the monitor, or ``stopped`` by a signal or somebody else
    time_ps : how far it came; wall_seconds : how long that took, over all resumptions
    temperature_K : mean over the checked steps
    max_atom_std : largest per-atom force uncertainty of all checks, eV/Å
    limit : the largest that passes, where one number says it
    reason : of the halt
    is_finite : whether what halted it, if anything did, is a number: else something is not finite, has no variance, or was never
        calibrated
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
        """As plain values for JSON."""
        return finite(asdict(self))


def _of_a_number(text: str) -> str:
    number("threshold", float(text), above=-1e-300, infinite=True)
    return text


class StoredMonitor(Settings):
    """What the guard went by, see :meth:`~blipcalc.monitor.observer.UncertaintyMonitor.settings`."""

    tolerance: Positive | None
    level: Fraction
    threshold: dict[str, Annotated[str, AfterValidator(_of_a_number)] | None]
    limits: str | None
    rules: list[str]
    every: AtLeastOne
    actions: list[str]


class StoredConfig(IntegratorConfig):
    """The settings of a run."""

    course: list[tuple[float, Positive]] = Field(min_length=1)
    seed: Count
    write_every: AtLeastOne
    trajectory: str | None
    monitor: StoredMonitor
    time_ps: Positive
    keep_draws: bool
    checkpoint_every: AtLeastOne | None = None


class StoredProvenance(Settings):
    """What made the numbers, see :func:`~blipcalc.md.restart.provenance`."""

    settings: dict[str, Any]
    calibration: StoredCalibration | None
    versions: dict[str, str]


class StoredRun(Settings):
    """Which run it was, as its summary says it.

    probe : {part of the calculator that declares no identity: {quantity: numbers on a probe structure, eV and Å}}
    """

    identity: str
    probe: dict[str, dict[str, list[float | None]]]
    config: StoredConfig
    environment: dict[str, str | bool | int | float | None]
    provenance: StoredProvenance


class StoredCheckpoint(StoredRun):
    """The same as a checkpoint says it, and where the run stood."""

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
    """Write what became of a run, and which it was."""
    write_json(path, RUN_SUMMARY, summary.to_dict() | {"run": run})


def read_summary(path: Path) -> tuple[MDSummary, StoredRun] | None:
    """What :func:`write_summary` wrote; None where there is no file.

    raises : DataError for a file that holds something else, DamagedFileError for one that was changed since
    """
    if not path.exists():
        return None
    said = read_json(path, RUN_SUMMARY)
    parts = {"run": said.pop("run", None), "summary": said}
    found = checked(_Summary, parts, f"{path} is no summary of run_md", error=RUN_SUMMARY.error)
    return found.summary, found.run


def read_checkpoint(folder: Path) -> StoredCheckpoint | None:
    """The figures of the newest whole checkpoint of a run folder; None where there is none.

    raises : SchemaError for a checkpoint of something else
    """
    found = last_checkpoint(folder)
    if found is None:
        return None
    return checked(StoredCheckpoint, found[1], f"{folder} holds no checkpoint of run_md", error=SchemaError)
