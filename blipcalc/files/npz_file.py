"""Sealed arrays: an ``.npz`` that numpy reads, with a SHA-256 over names, kinds, shapes and bytes among its entries."""

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
    """Write arrays of numbers; an older file stays until the new one is whole."""
    buffer = io.BytesIO()
    # numpy's types let an array have the name of its one option
    np.savez(buffer, **arrays, **{SEAL: np.array(_hash(arrays))})  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; raises :class:`DamagedFileError` where they are not as they were written."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        seal = str(arrays.pop(SEAL))
        found = _hash(arrays)
    except Exception as error:  # of zip, of headers, of arrays too large for any memory
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
