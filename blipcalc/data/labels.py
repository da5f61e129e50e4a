"""Reading of labelled structures from files, with checks of structures and labels.

A labelled structure is an ``ase.Atoms`` whose calculator holds ``energy`` (eV) and ``forces`` (eV/Å), as ASE reads it from
extxyz, ``.traj`` and ``ase.db``; rMD17-style ``.npz`` files are converted to that form.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import ase.db
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.io import iread
from ase.io.formats import filetype

from blipcalc.core.dropped_by_ase import KEPT, put_back
from blipcalc.core.neighbors import neighbor_pairs
from blipcalc.core.validate import check_structure
from blipcalc.data.picked import picked
from blipcalc.data.xyz import check_counts
from blipcalc.errors import (
    BlipcalcError,
    DataError,
    MissingLabelsError,
    NonFiniteLabelsError,
    StructureError,
    UnitsWarning,
    UnknownKeyError,
    warn_user,
)
from blipcalc.files.checksums import verify
from blipcalc.units import ENERGY, LENGTH

#: alternative names of arrays in .npz files of the MD17 family
NPZ_KEYS = {
    "numbers": ("nuclear_charges", "z", "Z", "numbers"),
    "positions": ("coords", "R", "positions"),
    "energy": ("energies", "E", "energy"),
    "forces": ("forces", "F"),
}

#: key in ``info`` for the ``data`` of an ase.db row until the labels are taken from it
ROW_DATA = "data of the row"

#: Å, range of the search for coincident atoms; a shorter range costs more, as it divides the cell more finely
SEARCH_RANGE = 3.0


def read_labelled(
    path: str | Path,
    *,
    energy_key: str = "energy",
    forces_key: str = "forces",
    energy_unit: str = "eV",
    length_unit: str = "Angstrom",
    index: str = ":",
) -> list[Atoms]:
    """Read labelled structures from extxyz, ``.traj``, ``ase.db`` or an rMD17-style ``.npz``.

    Parameters
    ----------
    energy_key, forces_key : names of the labels in the file; in an ase.db those of ``key_value_pairs`` and ``data`` too
    energy_unit, length_unit : units of the file (names of :mod:`blipcalc.units`); forces are energy/length
    index : ASE slice of frames

    Returns
    -------
    structures with ``energy`` in eV and ``forces`` (n, 3) in eV/Å, positions in Å

    Raises
    ------
    UnknownKeyError, MissingLabelsError, NonFiniteLabelsError, DataError, StructureError or a subclass
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no such data file: {path}")
    energy_factor, length_factor = _factor(energy_unit, ENERGY), _factor(length_unit, LENGTH)
    try:
        frames = _read_npz(path, energy_key, forces_key) if path.suffix == ".npz" else _read_ase(path)
        chosen = picked(frames, index)
        frames = chosen if isinstance(chosen, list) else [chosen]
    except BlipcalcError:
        raise
    except Exception as error:  # readers raise various errors; all mean that the file or the index is unusable
        raise DataError(f"{path} cannot be read with index {index!r}: {type(error).__name__}: {error}") from error
    if path.suffix != ".npz":
        frames = [_with_labels(atoms, energy_key, forces_key, f"{path}, frame {i}") for i, atoms in enumerate(frames)]
    if not frames:
        raise DataError(f"{path} holds no frames for index {index!r}")
    if energy_factor != 1.0 or length_factor != 1.0:
        frames = [_convert(atoms, energy_factor, length_factor) for atoms in frames]
    check_labels(frames, str(path))
    return frames


def labels(atoms: Atoms) -> tuple[float, np.ndarray]:
    """Return energy (eV) and forces (n, 3) (eV/Å) of a labelled structure, without constraints."""
    if atoms.calc is None:
        raise MissingLabelsError("the structure carries no calculator with energy and forces")
    results = atoms.calc.results
    missing = [key for key in ("energy", "forces") if results.get(key) is None]
    if missing:
        raise MissingLabelsError(f"expected energy and forces, but {' and '.join(missing)} missing")
    return float(results["energy"]), np.asarray(results["forces"], dtype=np.float64)


def check_labels(frames: Sequence[Atoms], where: str) -> None:
    """Raise an error for missing or non-finite labels and impossible structures; warn of forces that are no gradients.

    Messages begin with ``where`` and the number of the frame.

    raises : MissingLabelsError; NonFiniteLabelsError; DataError for forces of a wrong shape and atoms without an element;
        a StructureError as from the graph of the structure (no atoms, coincident atoms, a singular cell)
    """
    for i, atoms in enumerate(frames):
        try:
            energy, forces = labels(atoms)
        except MissingLabelsError as error:
            raise MissingLabelsError(f"{where}, frame {i}: {error}") from None
        if forces.shape != (len(atoms), 3):
            raise DataError(f"{where}, frame {i}: forces of shape {forces.shape}, expected ({len(atoms)}, 3)")
        for name, value in (("energy", energy), ("forces", forces), ("positions", atoms.positions)):
            if not np.isfinite(value).all():
                raise NonFiniteLabelsError(f"{where}, frame {i}: {name} holds NaN or infinity; remove or relabel it")
        _check_atoms(atoms, f"{where}, frame {i}")
    ratio = gradient_ratio(frames)
    if ratio is not None and not 0.2 < ratio < 5.0:
        warn_user(
            f"{where}: between frames of one composition the energies change {ratio:.3g} times as much as the forces "
            "say they should (a ratio near 1 is expected); 23.06 or 0.0434 means that one of the two is in kcal/mol, "
            "27.2 that it is in Hartree, 0.53 or 1.89 that lengths are in Bohr, a negative sign that 'forces' are gradients",
            UnitsWarning,
        )


def _check_atoms(atoms: Atoms, where: str) -> None:
    """Raise an error for atoms without an element, coincident atoms, and whatever else prevents a graph."""
    ghosts = np.flatnonzero((atoms.numbers < 1) | (atoms.numbers >= len(chemical_symbols)))
    if ghosts.size:
        raise DataError(
            f"{where}: expected atomic numbers from 1 to {len(chemical_symbols) - 1}, got {int(atoms.numbers[ghosts[0]])} for "
            f"atom {ghosts[0]} ({ghosts.size} such atoms of {len(atoms)}); remove ghost atoms, and the padding of arrays that "
            "hold molecules of several sizes (extxyz needs none)"
        )
    try:
        check_structure(atoms)
        neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, SEARCH_RANGE)
    except StructureError as error:
        raise type(error)(f"{where}: {error}") from None


def gradient_ratio(frames: Sequence[Atoms], n_frames: int = 200, n_pairs: int = 60) -> float | None:
    """Return the slope of energy differences against the work of the mean force, over the nearest pairs of frames.

        ΔE ≈ -½ (F_a + F_b) · (r_b - r_a)

    This is exact in a harmonic well for any step, so the slope is near 1 when units and signs agree.  Molecules are rotated
    onto each other first.  None where no composition has 50 frames (too few for near pairs), or where nothing moves.
    """
    groups: dict[tuple[int, ...], list[Atoms]] = {}
    for atoms in frames:
        if len(atoms) > 1 and not atoms.pbc.any():
            groups.setdefault(tuple(atoms.numbers.tolist()), []).append(atoms)
    work, change = [], []
    for group in groups.values():
        if len(group) >= 50:
            w, c = _works(group[:n_frames], n_pairs)
            work.append(w)
            change.append(c)
    if not work or not np.concatenate(work).any():
        return None
    all_work = np.concatenate(work)
    return float(np.dot(all_work, np.concatenate(change)) / np.dot(all_work, all_work))


def _works(group: Sequence[Atoms], n_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return work of the mean force and change of energy, eV, for the nearest pairs of frames of one molecule (Kabsch 1976)."""
    x = np.stack([atoms.positions - atoms.positions.mean(axis=0) for atoms in group])
    energies, forces = (np.array(part) for part in zip(*map(labels, group), strict=True))
    a, b = np.triu_indices(len(group), k=1)
    u, _, vt = np.linalg.svd(np.einsum("pni,pnj->pij", x[b], x[a]))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    rotation = u @ vt
    step = x[b] @ rotation - x[a]
    nearest = np.argsort((step**2).sum(axis=(1, 2)))[:n_pairs]
    mean_force = 0.5 * (forces[a] + forces[b] @ rotation)[nearest]
    return -(mean_force * step[nearest]).sum(axis=(1, 2)), (energies[b] - energies[a])[nearest]


def frame_hash(atoms: Atoms) -> int:
    """Return a 64-bit fingerprint of elements, positions (to 1e-6 Å), cell and pbc, independent of labels."""
    digest = hashlib.sha256()
    digest.update(np.asarray(atoms.numbers, dtype="<i4").tobytes())
    for values in (atoms.positions, atoms.cell.array):
        digest.update((np.rint(np.asarray(values) * 1e6) + 0.0).astype("<i8").tobytes())
    digest.update(bytes(np.asarray(atoms.pbc, dtype=np.uint8)))
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


def _factor(unit: str, table: dict[str, float]) -> float:
    if unit not in table:
        near = get_close_matches(unit.lower(), [known.lower() for known in table], n=1)
        near = [known for known in table if known.lower() in near]
        raise DataError(
            f"unknown unit {unit!r}; {f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(table)}"
        )
    return table[unit]


def _read_npz(path: Path, energy_key: str, forces_key: str) -> list[Atoms]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        names = {**NPZ_KEYS}
        names["energy"] = (energy_key, *NPZ_KEYS["energy"]) if energy_key == "energy" else (energy_key,)
        names["forces"] = (forces_key, *NPZ_KEYS["forces"]) if forces_key == "forces" else (forces_key,)
        arrays = {}
        for what, options in names.items():
            found = next((name for name in options if name in stored.files), None)
            if found is None:
                raise UnknownKeyError(
                    f"{path} has no {what} under {' or '.join(options)}; it holds {', '.join(stored.files)}"
                )
            arrays[what] = np.asarray(stored[found])
            if what in ("energy", "forces"):
                arrays[what] = _numeric(arrays[what], f"{path}: {what} under {found!r}")
    numbers, positions = arrays["numbers"], arrays["positions"]
    frames = []
    for i, (r, e, f) in enumerate(zip(positions, np.ravel(arrays["energy"]), arrays["forces"], strict=True)):
        atoms = Atoms(numbers[i] if numbers.ndim == 2 else numbers, r)
        atoms.calc = SinglePointCalculator(atoms, energy=float(e), forces=np.array(f))
        frames.append(atoms)
    return frames


def _read_ase(path: Path) -> list[Atoms]:
    """Return all frames of a file that ASE reads; rows of an ase.db have ``key_value_pairs`` and ``data`` in ``info``."""
    verify(path)
    check_counts(path)
    if filetype(str(path)) not in ("db", "json"):
        frames = list(iread(path, index=":"))
        for atoms in frames:
            put_back(atoms)
        return frames
    frames = []
    with ase.db.connect(path, serial=True) as rows:
        for row in rows.select():
            atoms = row.toatoms()
            atoms.info = {**row.key_value_pairs, ROW_DATA: row.data}
            if KEPT in row.data:
                atoms.info[KEPT] = row.data[KEPT]
                put_back(atoms)
            frames.append(atoms)
    return frames


def _with_labels(atoms: Atoms, energy_key: str, forces_key: str, where: str) -> Atoms:
    """Move labels from other names into a SinglePointCalculator.

    raises : UnknownKeyError, MissingLabelsError; DataError for labels that are not numbers
    """
    row = atoms.info.pop(ROW_DATA, {})
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    places = (results, atoms.info, atoms.arrays, row)
    found = {}
    for name, key in (("energy", energy_key), ("forces", forces_key)):
        value = next((place[key] for place in places if place.get(key) is not None), None)
        if value is None:
            keys = sorted({str(k) for place in places for k in place} - {"numbers", "positions"})
            error = MissingLabelsError if key == name else UnknownKeyError
            raise error(f"{where}: no {name} under {key!r}; the frame holds {', '.join(keys) or 'none'}")
        found[name] = _numeric(value, f"{where}: {name} under {key!r}")
    if found["energy"].size != 1:
        raise DataError(
            f"{where}: energy under {energy_key!r} has shape {found['energy'].shape}, expected one number; name the key of the "
            "total energy"
        )
    if (energy_key, forces_key) == ("energy", "forces") and all(results.get(name) is not None for name in found):
        return atoms  # unchanged, with all other results
    atoms.calc = SinglePointCalculator(atoms, energy=found["energy"].item(), forces=found["forces"])
    return atoms


def _numeric(value: object, what: str) -> np.ndarray:
    """Return a label of any shape as float64; raises DataError, beginning with ``what``, for text, booleans and uneven rows."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{what} is {reprlib.repr(value)}, expected numbers; name the key that holds them")
    return np.asarray(array, dtype=np.float64)


def _convert(atoms: Atoms, energy_factor: float, length_factor: float) -> Atoms:
    energy, forces = labels(atoms)
    converted = atoms.copy()
    converted.positions *= length_factor
    converted.cell *= length_factor
    converted.calc = SinglePointCalculator(
        converted, energy=energy * energy_factor, forces=forces * (energy_factor / length_factor)
    )
    return converted
