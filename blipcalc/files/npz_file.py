"""Sealed arrays: an ``.npz`` file for numpy with a SHA-256 over names, dtypes, shapes and bytes of its arrays."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from blipcalc.errors import DamagedFileError
from blipcalc.files.safetensors_file import tensors_hash, write_atomically

SEAL = "sha256"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of numbers; an older file stays until the new one is complete."""
    buffer = io.BytesIO()
    # by numpy's annotations an array could have the name of the option
    np.savez(buffer, **arrays, **{SEAL: np.array(_hash(arrays))})  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file; raises :class:`DamagedFileError` for a changed file."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        seal = str(arrays.pop(SEAL))
        found = _hash(arrays)
    except Exception as error:  # errors of zip, of headers, of arrays larger than the memory
        raise DamagedFileError(
            f"{path} cannot be read: {type(error).__name__}: {error}; write the frames again"
        ) from None
    if found != seal:
        raise DamagedFileError(
            f"{path}: the arrays hash to {found[:12]}…, the file says {seal[:12]}…; it is damaged, write the frames again"
        )
    return arrays


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    return tensors_hash({name: torch.from_numpy(np.array(values)) for name, values in arrays.items()})
