"""Bundled files: models, and starting structures of the molecules and crystals that they are for."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ase import Atoms
from ase.io import iread

from blipcalc.errors import ConfigurationError
from blipcalc.files.checksums import verify

#: names of the starting structures: molecules of ``rmd17``, zeolites of ``silica``, whose last two were not in its training
MOLECULES = ("aspirin", "benzene", "ethanol", "malonaldehyde", "salicylic", "toluene", "uracil")
ZEOLITES = ("abw", "bct", "dft", "edi", "gis", "nab", "cha", "sod")


def bundle_path(name: str) -> Path:
    """Return the path of a file in the package data."""
    return Path(str(resources.files("blipcalc") / "bundled" / name))


def starting_structure(name: str) -> Atoms:
    """Return the starting structure of one of :data:`MOLECULES` or :data:`ZEOLITES`, without a calculator.

    raises : ConfigurationError for another name, DamagedFileError for a changed file
    """
    for file, names in (("rmd17.extxyz", MOLECULES), ("silica.extxyz", ZEOLITES)):
        if name in names:
            verify(bundle_path(file))
            return next(iread(bundle_path(file), index=names.index(name)))
    raise ConfigurationError(f"no starting structure for {name!r}; there are {', '.join(MOLECULES + ZEOLITES)}")
