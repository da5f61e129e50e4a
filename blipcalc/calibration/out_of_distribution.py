"""Reading of out-of-distribution structures, from files with or without labels."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms
from ase.io import iread

from blipcalc.core.dropped_by_ase import put_back
from blipcalc.data.labels import read_labelled
from blipcalc.errors import MissingLabelsError, UnknownKeyError
from blipcalc.units import LENGTH


def read_foreign(
    path: str | Path,
    *,
    energy_key: str = "energy",
    forces_key: str = "forces",
    energy_unit: str = "eV",
    length_unit: str = "Angstrom",
    index: str = ":",
) -> list[Atoms]:
    """Return structures as :func:`~blipcalc.data.labels.read_labelled`, or without labels where the file has none.

    A file with labels in some frames only, or under other names, is refused as by ``read_labelled``: it is more likely a
    mistake than intended.

    energy_key, forces_key, energy_unit, length_unit, index : as for ``read_labelled``
    returns : structures, positions in Å; labels, where there are any, in eV and eV/Å
    raises : UnknownKeyError, MissingLabelsError, NonFiniteLabelsError, DataError
    """
    try:
        return read_labelled(
            path,
            energy_key=energy_key,
            forces_key=forces_key,
            energy_unit=energy_unit,
            length_unit=length_unit,
            index=index,
        )
    except (MissingLabelsError, UnknownKeyError):
        if Path(path).suffix == ".npz":  # a format of labelled frames that ASE does not read
            raise
        frames = list(iread(path, index=index))
        for atoms in frames:
            put_back(atoms)
        names = ({"energy", "forces"}, {energy_key, forces_key})
        if any(pair <= _held(atoms) for atoms in frames for pair in names):
            raise
    for atoms in frames:
        atoms.calc = None  # an energy without forces is no label, and would stay in the unit of the file
        atoms.set_cell(atoms.cell * LENGTH[length_unit], scale_atoms=False)
        atoms.positions *= LENGTH[length_unit]
    return frames


def _held(atoms: Atoms) -> set[str]:
    """Return the names of all results, ``info`` entries and arrays of a frame."""
    results = {} if atoms.calc is None else atoms.calc.results
    return {*results, *atoms.info, *atoms.arrays}
