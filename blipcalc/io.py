"""Read and write structures with uncertainties, which ASE's writers drop, without loss.

ASE's writers silently drop every result that is not in its list.  Here these are stored under names with the prefix
``blip_``, in places that ASE keeps, so that ASE reads the same files; :func:`read` makes them available by ``get_property``.

| format | stored | how |
|---|---|---|
| ``.traj`` | every key of the calculator's contract, bit for bit | arrays in ``info`` (ASE drops ``arrays``) |
| ``.xyz``, ``.extxyz`` | ``*_std`` as text; ``*_var`` recomputed as its square | columns of 8 decimals; all others: all digits |
| ``.db`` | every key, bit for bit | ``data`` of the row, which has a seal (:mod:`blipcalc.files.row_seals`) |

Also stored are: calibrated or not, surface, K and seed, and properties of the structure that formats drop
(:mod:`blipcalc.core.dropped_by_ase`).  Covariances and uncalibrated values are not stored.  Files that grow frame by frame can
have checksums beside them (:mod:`blipcalc.files.checksums`), which :func:`read` verifies.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, overload

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.db import connect
from ase.io.trajectory import TrajectoryReader, TrajectoryWriter

from blipcalc.calculators.bayesian import CARRIED, DEVIATIONS, Sampled
from blipcalc.calculators.snapshot import PREFIX, SnapshotCalculator, annotate, clear_stale_annotations, snapshot
from blipcalc.core.dropped_by_ase import put_back, set_aside, words_again
from blipcalc.core.prediction import SampleArrays
from blipcalc.core.validate import check_all_arrays
from blipcalc.data.picked import picked
from blipcalc.data.xyz import check_counts
from blipcalc.errors import BlipcalcError, DataError, SchemaError
from blipcalc.files.checksums import add_sums, forget_sums, sums_of, verify
from blipcalc.files.locks import adding
from blipcalc.files.npz_file import read_arrays, write_arrays
from blipcalc.files.row_seals import seal_rows
from blipcalc.files.safetensors_file import write_atomically

#: (n,) and (n, 3): columns in text files
PER_ATOM = ("atom_std", "forces_std", "latent_distance")
#: key in ``info`` of a frame's index in the file of samples
SAMPLES = f"{PREFIX}samples"


def write(
    path: str | Path,
    frames: Atoms | Iterable[Atoms],
    *,
    append: bool = False,
    samples: bool = False,
    checksums: bool = False,
) -> None:
    """Write structures with all results that their calculators hold; only requested samples are computed.

    All frames are prepared before the file is touched: if one fails, an existing file is unchanged and no new one is created.

    Parameters
    ----------
    path : ``.traj``, ``.xyz``, ``.extxyz`` or ``.db``
    frames : one structure or many
    append : add to an existing file
    samples : also store the K draws, beside the file in ``<path>.samples.npz``
    checksums : store a checksum of every frame beside the file in ``<path>.sums``, as run folders do; appending to a file with
        checksums adds more.  Not for ``.db``, whose rows are always sealed, nor for text files started without them

    Raises
    ------
    StructureError : an array that does not have one value per atom
    FileBusyError : another process writes to the file, such as a run
    DataError : unknown suffix, no frames, no samples available, checksums of a database, and content that no file can restore:
        constraints from outside of ASE, objects in ``info``
    """
    path, frames = Path(path), [frames] if isinstance(frames, Atoms) else list(frames)
    _check_suffix(path)
    if not frames:
        raise DataError(f"expected at least one frame to write to {path}, got none")
    if checksums and not keeps_sums(path):
        raise DataError(
            f"{path}: the rows of a database have seals in it, and no checksums beside it; leave checksums=False"
        )
    with adding(path):
        _write(path, frames, append=append, samples=samples, checksums=checksums)


def _write(path: Path, frames: Sequence[Atoms], *, append: bool, samples: bool, checksums: bool) -> None:
    append = append and path.exists()
    store = _stored_samples(path) if append else {}
    first = len({name.partition("/")[0] for name in store})
    prepared = []
    with _named(f"{path}: a frame holds what this format cannot; look at its arrays and info", (OSError,)):
        for i, atoms in enumerate(frames):
            check_all_arrays(atoms, for_files=True)
            frame = snapshot(atoms)
            put_back(frame)  # for a file that was read by ASE's reader
            annotate(frame)
            try:
                set_aside(frame, path.suffix)
            except DataError as error:
                raise DataError(f"{path}: frame {i}: {error}") from error
            if samples:
                frame.info[SAMPLES] = first + i
                kept = {key: value for key, value in asdict(_samples_of(atoms)).items() if value is not None}
                store.update({f"{first + i}/{key}": value for key, value in kept.items()})
            prepared.append(frame)
        commit = _FORMATS[path.suffix](path, prepared, append)
    if samples:
        write_arrays(_samples_path(path), store)
    if not append:
        forget_sums(path)
    commit()
    if sums_of(path).exists() or (checksums and (not append or path.suffix == ".traj")):
        add_sums(path)


@overload
def read(path: str | Path, index: Literal[":"] = ":") -> list[Atoms]: ...
@overload
def read(path: str | Path, index: int) -> Atoms: ...
@overload
def read(path: str | Path, index: str) -> Atoms | list[Atoms]: ...
def read(path: str | Path, index: int | str = ":") -> Atoms | list[Atoms]:
    """Return the structures of a file, with their uncertainties in ``atoms.calc.get_property``.

    Parameters
    ----------
    path : as for :func:`write`; files of other programs are read by ASE
    index : as in ASE: an int returns one structure, a slice as text a list

    Raises
    ------
    DataError : no such file, or an unknown suffix
    DamagedFileError : a file that contradicts its checksums or seals
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    verify(path)
    with _named(f"{path} cannot be read with index {index!r}"):
        check_counts(path)
        if path.suffix == ".db":
            frames = [_from_row(row) for row in connect(path, use_lock_file=False).select()]
            chosen = picked(frames, index)
        else:
            chosen = ase.io.read(path, index=index)
        stored = _stored_samples(path)
        return [_restore(a, stored) for a in chosen] if isinstance(chosen, list) else _restore(chosen, stored)


@contextlib.contextmanager
def _named(what: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Convert errors of other packages' readers and writers to DataError, except the types in ``passing``."""
    known: tuple[type[Exception], ...] = (BlipcalcError, *passing)
    try:
        yield
    except known:
        raise
    except Exception as error:
        raise DataError(f"{what}: {type(error).__name__}: {error}") from error


def iterate(path: str | Path) -> Iterator[Atoms]:
    """Yield the structures of a file as :func:`read` returns them; of a ``.traj`` only one is in memory at a time."""
    path = Path(path)
    if path.suffix != ".traj":
        yield from read(path)
        return
    verify(path)
    stored = _stored_samples(path)
    with _named(f"{path} cannot be read"), TrajectoryReader(path) as frames:
        for k in range(len(frames)):
            yield _restore(frames[k], stored)


def keeps_sums(path: Path) -> bool:
    """Return whether a file of this format can have checksums."""
    return path.suffix != ".db"


def _samples_of(atoms: Atoms) -> SampleArrays:
    """Return the draws of a structure, evaluated if the calculator does not hold them."""
    calc, samples = atoms.calc, None
    if isinstance(calc, SnapshotCalculator):
        samples = calc.samples
    elif isinstance(calc, Sampled):
        samples = calc.get_samples(atoms)
    if samples is None:
        raise DataError(f"no samples to write: the calculator is {type(calc).__name__}; leave samples=False")
    return samples


def _samples_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.samples.npz")


def _stored_samples(path: Path) -> dict[str, np.ndarray]:
    """Return {frame/quantity: samples}."""
    if not _samples_path(path).is_file():
        return {}
    arrays = read_arrays(_samples_path(path))
    known = {field.name for field in fields(SampleArrays)}
    odd = [
        name for name, values in arrays.items() if name.partition("/")[2] not in known or not np.isfinite(values).all()
    ]
    if odd:
        raise SchemaError(
            f"{_samples_path(path)}: {', '.join(odd[:4])}; expected finite numbers, as frame/quantity with one of {sorted(known)}"
        )
    return arrays


def _restore(atoms: Atoms, samples: Mapping[str, np.ndarray]) -> Atoms:
    """Move entries with the prefix from ``info`` and ``arrays`` into a snapshot calculator."""
    words_again(atoms)
    put_back(atoms)
    clear_stale_annotations(atoms)
    found = {}
    for place in (atoms.info, atoms.arrays):
        for key in [key for key in place if str(key).startswith(PREFIX)]:
            found[key.removeprefix(PREFIX)] = place.pop(key)
    if not found:
        return atoms
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    shapes = {"atom": (len(atoms),), "latent": (len(atoms),), "forces": (len(atoms), 3), "stress": (6,), "draw": (-1,)}
    for key in CARRIED:
        quantity, _, kind = key.partition("_")
        if kind == "var" and key not in found and f"{quantity}_std" in found:
            found[key] = np.square(found[f"{quantity}_std"])
        if key in found:
            # ASE reads text of nine numbers as a matrix, column by column
            value = np.asarray(found[key], dtype=np.float64)
            value = np.ravel(value, order="F") if key == DEVIATIONS else value
            results[key] = value.reshape(shapes[quantity]) if quantity in shapes else float(value)
    kinds: dict[str, Callable[[Any], Any]] = {"calibrated": bool, "surface": str, "n_draws": int, "seed": int}
    provenance = {key: kind(found[key]) for key, kind in kinds.items() if key in found}
    prefix = f"{int(found['samples'])}/" if "samples" in found else None
    kept = {name.removeprefix(prefix): v for name, v in samples.items() if prefix and name.startswith(prefix)}
    atoms.calc = SnapshotCalculator(atoms, results, provenance, SampleArrays(**kept) if kept else None)
    return atoms


def _check_suffix(path: Path) -> None:
    if path.suffix not in _FORMATS:
        raise DataError(f"cannot tell the format of {path}; known suffixes: {', '.join(_FORMATS)}")


def _traj(path: Path, frames: Sequence[Atoms], append: bool) -> Callable[[], None]:
    buffer = io.BytesIO()
    writer = TrajectoryWriter(buffer)
    for atoms in frames:
        writer.write(atoms)

    def add() -> None:
        # earlier frames stay readable while ASE appends, since it writes the index last
        with TrajectoryWriter(path, mode="a") as existing:
            for atoms in frames:
                existing.write(atoms)

    return add if append else lambda: write_atomically(path, buffer.getvalue())


def _extxyz(path: Path, frames: Sequence[Atoms], append: bool) -> Callable[[], None]:
    for atoms in frames:
        for key in [key for key in atoms.info if str(key).startswith(PREFIX) and key.endswith("_var")]:
            del atoms.info[key]
        for key in [PREFIX + key for key in PER_ATOM if PREFIX + key in atoms.info]:
            atoms.arrays[key] = atoms.info.pop(key)
    buffer = io.StringIO()
    ase.io.write(buffer, frames, format="extxyz")
    content = buffer.getvalue().encode()

    def add() -> None:
        size = path.stat().st_size
        try:
            with path.open("ab") as stream:
                stream.write(content)
        except BaseException:
            os.truncate(path, size)
            raise

    return add if append else lambda: write_atomically(path, content)


def _database(path: Path, frames: Sequence[Atoms], append: bool) -> Callable[[], None]:
    with tempfile.TemporaryDirectory() as folder:
        whole, ids = Path(folder) / path.name, []
        if append:
            shutil.copy2(path, whole)
        with connect(whole, use_lock_file=False) as database:
            for atoms in frames:
                results = {PREFIX + k: v for k, v in atoms.calc.results.items()} if atoms.calc is not None else {}
                ours = {k: v for k, v in atoms.info.items() if str(k).startswith(PREFIX)}
                ids.append(database.write(atoms, data={**results, **ours}))
        seal_rows(connect(whole, use_lock_file=False), ids)
        content = whole.read_bytes()
    return lambda: write_atomically(path, content)


def _from_row(row: Any) -> Atoms:
    atoms = row.toatoms()
    results = {k.removeprefix(PREFIX): v for k, v in row.data.items() if k.startswith(PREFIX)}
    standard = {key: results[key] for key in all_properties if key in results}
    if standard:
        atoms.calc = SnapshotCalculator(atoms, standard)
    atoms.info.update({PREFIX + k: v for k, v in results.items() if k not in standard})
    return atoms


_FORMATS: dict[str, Callable[[Path, Sequence[Atoms], bool], Callable[[], None]]] = {
    ".traj": _traj,
    ".xyz": _extxyz,
    ".extxyz": _extxyz,
    ".db": _database,
}
