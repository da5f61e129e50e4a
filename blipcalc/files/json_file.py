"""Sealed JSON: results and settings that people can read and search, with a SHA-256 over the content inside.

    {"kind": "limits", …, "sha256": "…"}

The hash covers the content as :func:`canonical` text, so that a new layout alone keeps it valid.  A changed value is refused:
such files are made by this package and are not edited by hand; the error tells how to make the file anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blipcalc.errors import BlipcalcError, DamagedFileError, DataError, SchemaError
from blipcalc.files.safetensors_file import json_object, text_hash, write_atomically

KIND, SEAL = "kind", "sha256"


@dataclass(frozen=True)
class Kind:
    """Kind of a sealed JSON file.

    name : entry ``kind`` of the file
    remedy : how to make such a file anew, for messages
    error : raised for a missing file, or one of another content
    """

    name: str
    remedy: str
    error: type[BlipcalcError] = DataError


def json_text(value: object, *, ascii_only: bool = True) -> str:
    """Return JSON for every reader: numbers that are not finite, such as uncalibrated error bars, become null.

    ascii_only : whether to escape other characters, for files; they stay for output to people
    """
    return json.dumps(finite(value), indent=1, allow_nan=False, ensure_ascii=ascii_only)


def finite(value: Any) -> Any:
    """Return the value with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def canonical(content: Mapping[str, Any]) -> str:
    """Return the canonical text of a JSON object: sorted keys, no spaces, all digits; raises ``ValueError`` for NaN, infinity."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: str | Path, kind: Kind, content: Mapping[str, Any]) -> None:
    """Write a sealed file; an older one stays until the new one is complete.  Numbers that are not finite become null."""
    if taken := {KIND, SEAL} & set(content):
        raise ValueError(f"a sealed file says {', '.join(sorted(taken))} by itself")
    # in the form that is read: keys become text, tuples become lists
    said = json.loads(json_text({KIND: kind.name, **content}))
    write_atomically(Path(path), json_text({**said, SEAL: text_hash(canonical(said))}).encode())


def read_json(path: str | Path, kind: Kind | None = None) -> dict[str, Any]:
    """Return the content of a sealed file, verified against its hash.

    Parameters
    ----------
    path : of the file
    kind : required kind; None takes any

    Raises
    ------
    DamagedFileError : no JSON, a repeated key, or a content that does not match the hash
    DataError, or the error of the kind : no such file, no seal, or another kind
    """
    path = Path(path)
    name, remedy, error = (
        ("sealed JSON", "make it anew", DataError) if kind is None else (kind.name, kind.remedy, kind.error)
    )
    try:
        content = path.read_bytes() if path.is_file() else None
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror}") from None
    if content is None:
        raise error(f"no {name} at {path}; {remedy}")
    try:
        said = json_object(path, "JSON", content)
    except DamagedFileError as fault:
        raise DamagedFileError(f"{fault}; {remedy}") from None
    except SchemaError as fault:
        raise error(f"{path} holds no {name}: {fault}; {remedy}") from None
    seal = said.pop(SEAL, None)
    if not isinstance(seal, str) or KIND not in said:
        raise error(f"{path} holds no {name}: it has no {KIND} and {SEAL}; {remedy}")
    _check(path, said, seal, name, remedy)
    if kind is not None and said[KIND] != kind.name:
        raise error(f"{path} holds no {name}, but {said[KIND]!r}; {remedy}")
    del said[KIND]
    return said


def _check(path: Path, said: dict[str, Any], seal: str, name: str, remedy: str) -> None:
    """Raise DamagedFileError for a content that does not match its hash."""
    try:
        found = text_hash(canonical(said))
    except ValueError:  # a number too large for a float
        found = "nothing"
    if found != seal:
        raise DamagedFileError(
            f"{path} was changed since it was written: its content hashes to {found[:12]}…, it says {seal[:12]}…. A file of "
            f"{name} is not edited by hand; {remedy}"
        )
