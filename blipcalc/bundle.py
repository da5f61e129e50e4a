"""What comes with the package: models, and starting structures of the molecules that they know."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ase import Atoms
from ase.io import read

from blipcalc.errors import ConfigurationError

#: names of the starting structures
MOLECULES = ("aspirin", "benzene", "ethanol", "malonaldehyde", "salicylic", "toluene", "uracil")


def bundle_path(name: str) -> Path:
    """A file among the package data."""
    return Path(str(resources.files("blipcalc") / "bundled" / name))


def starting_structure(molecule: str) -> Atoms:
    """The starting structure of one of :data:`MOLECULES`, without a calculator.

    Raises :class:`ConfigurationError` for another name.
    """
    if molecule not in MOLECULES:
        raise ConfigurationError(f"no starting structure for {molecule!r}; there are {', '.join(MOLECULES)}")
    return read(bundle_path("rmd17.extxyz"), index=MOLECULES.index(molecule))
