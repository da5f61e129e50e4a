"""Sealed tensor files: safetensors with a JSON manifest, hashed, written atomically, without pickle.

Checks of every file that is read again: a seal detects damage, a schema refuses impossible contents with a valid seal:

| file | seal | schema | damaged |
|---|---|---|---|
| model ``.blip``, calibrations inside | SHA-256 of manifest, of tensors (here) | ``manifest`` | refused: get a fresh copy |
| ``checkpoint.safetensors`` | the same | ``StoredCheckpoint``, ``StoredTraining`` | the previous one is used, with a warning |
| ``limits.json`` | SHA-256 of the content (``json_file``) | ``Limits`` | refused: ``blipcalc check`` |
| ``summary.json`` of a run | the same | ``md.summary`` | refused: remove it, checkpoints hold the rest |
| ``evaluation.json`` | the same | ``StoredEvaluation`` | refused: ``blipcalc evaluate`` |
| ``relaxation.json``, averages, comparison | the same | ``StoredEstimate`` | refused: made anew by their commands |
| ``trajectory.traj``, breached frames | CRC-32 of every frame (``checksums``) | ``io`` | refused: ``blipcalc repair`` |
| ``history.csv``, ``log.csv`` | CRC-32 of every part | columns and ranges | refused: ``blipcalc repair`` |
| ``events.jsonl`` | CRC-32 of every line | ``Event`` | refused: ``blipcalc repair`` |
| ``.samples.npz``, draws of frames | SHA-256 of the arrays (``npz_file``) | names, finite | refused: write them again |
| rows of a ``.db`` | SHA-256 of every row (``row_seals``) | ``io`` | refused: ``ase.db`` reads the others |
| ``.traj``, ``.xyz`` of ``blipcalc.write`` | CRC-32 with ``checksums=True``, else none | ``io`` | as a trajectory |

Files of other programs have no seal.  Seals do not protect against intent.

Layout: one plain safetensors file.  Its metadata hold ``manifest`` (JSON), ``manifest_sha256`` and ``tensors_sha256``; the
latter covers names, dtypes, shapes and bytes of all tensors in sorted order, because safetensors itself has no checksum and
1,525 of 5,000 random mutations of such a file read back as silently different values.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from blipcalc.errors import DamagedFileError, ModelFileError, NonFiniteWeightsError, SchemaError
from blipcalc.files.locks import lock_open_file
from blipcalc.process import plain_state

#: bytes; our largest files have a few MB, a header some hundred kB
MAX_HEADER = 16 * 2**20
#: end of the name of a temporary file: process, thread
TEMPORARY = re.compile(r"\.\d+\.\d+\.tmp$")
#: allowed dtypes
DTYPES = (torch.float64, torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool)


@plain_state()
def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return SHA-256 over names, dtypes, shapes and little-endian bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def text_hash(text: str) -> str:
    """Return SHA-256 of the UTF-8 bytes of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside ``path``, sync it, rename it to ``path``, sync the folder.

    Temporary files of killed processes are removed.
    """
    path = Path(path).resolve()  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        with _own(temporary) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _own(temporary: Path) -> BinaryIO:
    """Open a new file that is locked while open, so that other processes do not remove it as a leftover."""
    while True:
        stream = temporary.open("wb")
        if not lock_open_file(stream, wait=True) or temporary.exists():
            return stream
        stream.close()  # another process removed it as a leftover before it was locked


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files without a lock, whose processes have ended."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if not TEMPORARY.search(leftover.name):
            continue
        with contextlib.suppress(OSError), leftover.open("rb") as stream:
            # after a renaming meanwhile, the name may belong to another file
            if lock_open_file(stream) and os.path.samestat(os.fstat(stream.fileno()), leftover.stat()):
                leftover.unlink()


@plain_state()
def write_sealed(path: str | Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    """Write tensors and manifest as one sealed file; the old file stays until the new one is complete."""
    text = json.dumps(manifest, sort_keys=True, allow_nan=False)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {"manifest": text, "manifest_sha256": text_hash(text), "tensors_sha256": tensors_hash(tensors)}
    write_atomically(Path(path), save(tensors, metadata=metadata))


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return the manifest, verified against its hash, without reading the tensors."""
    return _parse(Path(path), _read_bytes(Path(path), header_only=True))[0]


@plain_state()
def read_sealed(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and manifest of a sealed file, both verified against their hashes.

    Raises
    ------
    DamagedFileError : truncated, not safetensors, or a hash that does not match
    SchemaError : no manifest
    NonFiniteWeightsError : NaN or infinity among the tensors
    """
    path = Path(path)
    content = _read_bytes(path, header_only=False)
    manifest, metadata = _parse(path, content)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise DamagedFileError(f"{path} cannot be read: {error}; get a fresh copy") from None
    odd = {name: value.dtype for name, value in tensors.items() if value.dtype not in DTYPES}
    if odd:
        raise SchemaError(f"{path}: tensors of a kind that no model file holds: {odd}")
    found = tensors_hash(tensors)
    if found != metadata["tensors_sha256"]:
        raise DamagedFileError(
            f"{path}: the tensors hash to {found[:12]}…, the file says {metadata['tensors_sha256'][:12]}…; it is damaged"
        )
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise NonFiniteWeightsError(f"{path}: tensor {name!r} holds NaN or infinity")
    return tensors, manifest


def _read_bytes(path: Path, *, header_only: bool) -> bytes:
    if not path.is_file():
        raise ModelFileError(f"no such file: {path}")
    with path.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise DamagedFileError(f"{path} is {len(start)} bytes long; it is truncated")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER:
            raise DamagedFileError(
                f"{path} announces a header of {length} bytes, more than {MAX_HEADER}; not a model file"
            )
        return start + (stream.read(length) if header_only else stream.read())


def _parse(path: Path, content: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length]
    if len(header) < length:
        raise DamagedFileError(f"{path} ends within its header; it is truncated")
    metadata = json_object(path, "header", header).get("__metadata__", {})
    keys = ("manifest", "manifest_sha256", "tensors_sha256")
    if not isinstance(metadata, dict) or not all(isinstance(metadata.get(key), str) for key in keys):
        raise SchemaError(f"{path} is no blipcalc file: its metadata lack {', '.join(keys)}")
    if text_hash(metadata["manifest"]) != metadata["manifest_sha256"]:
        raise DamagedFileError(f"{path}: the manifest does not match its hash; it is damaged")
    return json_object(path, "manifest", metadata["manifest"]), metadata


def json_object(path: Path, what: str, text: str | bytes) -> dict[str, Any]:
    """Return a JSON object without repeated keys; raises DamagedFileError for invalid JSON, SchemaError for another value."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = sorted({key for key, n in Counter(key for key, _ in pairs).items() if n > 1})
        if twice:
            raise ValueError(f"it names a key twice: {twice}")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} has no readable {what}: {error}") from None
    if not isinstance(found, dict):
        raise SchemaError(f"{path}: the {what} is {type(found).__name__}, expected an object")
    return found
