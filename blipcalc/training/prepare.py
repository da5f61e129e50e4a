"""Preparation of training data: frames, reference energies and scale from labelled files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms
from ase.data import chemical_symbols

from blipcalc.data.labels import read_labelled
from blipcalc.data.references import fit_references, force_rms
from blipcalc.data.splits import Split, split_files
from blipcalc.errors import MixedElementsError
from blipcalc.training.config import DataConfig


@dataclass(frozen=True)
class Prepared:
    """Data for a training: the split, its reference energies (eV per element) and scale (eV)."""

    split: Split
    references: dict[int, float]
    scale: float
    files: dict[str, str]

    @property
    def species(self) -> list[int]:
        """Atomic numbers of the training frames."""
        return sorted(self.references)


def prepare(paths: Sequence[str | Path], data: DataConfig) -> Prepared:
    """Read labelled files, split each with the same seed, and fit references and scale to the training frames.

    Raises
    ------
    DataError or a subclass; MixedElementsError where validation or calibration frames have elements that training frames lack
    """
    named: list[tuple[str, list[Atoms]]] = []
    files: dict[str, str] = {}
    for path in map(Path, paths):
        frames = read_labelled(
            path,
            energy_key=data.energy_key,
            forces_key=data.forces_key,
            energy_unit=data.energy_unit,
            length_unit=data.length_unit,
        )
        named.append((str(path), frames))
        files[str(path) if path.name in files else path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    split = split_files(named, validation=data.validation, calibration=data.calibration, seed=data.split_seed)
    references = fit_references(split.train)
    for name in ("validation", "calibration"):
        foreign = {int(z) for atoms in getattr(split, name) for z in atoms.numbers} - set(references)
        if foreign:
            raise MixedElementsError(
                f"{name} frames hold {', '.join(chemical_symbols[z] for z in sorted(foreign))}, which no training frame has; "
                "give more frames, or files of one chemistry"
            )
    return Prepared(split, references, force_rms(split.train), files)
