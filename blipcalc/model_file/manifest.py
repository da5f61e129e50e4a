"""Manifest of a model file and its validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from blipcalc.core.contracts import Surface
from blipcalc.core.prediction import Calibration
from blipcalc.errors import SchemaError
from blipcalc.settings import AtLeastOne, Count, Fraction, Positive, Settings, checked

SCHEMA: Final = 1

AtomicNumber = Annotated[int, Field(ge=1, le=118)]


class StoredCalibration(Settings):
    """A :class:`~blipcalc.core.prediction.Calibration` as JSON (keys are text there)."""

    surface: Surface
    n_draws: AtLeastOne
    seed: int
    model_hash: str
    scale: dict[AtomicNumber, Positive]
    scale_energy: Positive
    q_atom: dict[AtomicNumber, dict[Fraction, Positive]]
    q_frame: dict[Fraction, Positive]
    n_frames: AtLeastOne
    n_atoms: dict[AtomicNumber, Count]
    n_element_frames: dict[AtomicNumber, Count]
    frames_hash: str

    def calibration(self) -> Calibration:
        """Return the :class:`~blipcalc.core.prediction.Calibration`."""
        return Calibration(**self.model_dump())


class StoredDomain(Settings):
    """A :class:`~blipcalc.core.domain.Domain` as JSON without its ellipsoids, which are stored as tensors."""

    closest: dict[str, Positive]
    n_frames: AtLeastOne
    n_atoms: dict[AtomicNumber, Count]


class Units(Settings):
    """Units of a model file, which are fixed."""

    energy: Literal["eV"] = "eV"
    length: Literal["Angstrom"] = "Angstrom"


class Manifest(Settings):
    """Metadata of a model file."""

    schema_version: Literal[1]
    architecture: str
    architecture_config: dict[str, Any]
    posterior: str
    posterior_config: dict[str, Any] | None
    packages: dict[str, str] = Field(
        default_factory=dict,
        description="distributions that architecture and posterior come from, where not from blipcalc",
    )
    conventions: dict[str, float] = Field(default_factory=dict)
    species: list[AtomicNumber] = Field(min_length=1)
    cutoff: Positive
    units: Units
    surface: Surface
    model_hash: str
    draws_hash: str | None
    training: dict[str, Any]
    calibrations: list[StoredCalibration]
    domain: StoredDomain | None = None


def validated(path: Path, raw: dict[str, Any]) -> Manifest:
    """Return the manifest of a file; raises :class:`SchemaError`, which names the wrong fields."""
    if raw.get("schema_version") != SCHEMA:
        raise SchemaError(
            f"{path} has schema version {raw.get('schema_version')!r}; this version of blipcalc reads {SCHEMA}. "
            "Is it a model file? A newer one needs a newer blipcalc"
        )
    return checked(Manifest, raw, f"{path}: its manifest", error=SchemaError)
