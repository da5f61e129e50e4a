"""Sealed JSON: results and settings that people can read and search, with a SHA-256 over the content inside.

    {"kind": "limits", …, "sha256": "…"}

The hash is that of the content as :func:`canonical` text, so that a file which is only laid out anew stays as it is.  A changed
value is refused: such files are made by this package and are not edited by hand; each kind says how it is made anew.
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
    """A kind of sealed JSON.

    name : as the file says it
    remedy : how such a file is made anew, for messages
    error : of a file that is not there, or holds something else
    """

    name: str
    remedy: str
    error: type[BlipcalcError] = DataError


def json_text(value: object, *, ascii_only: bool = True) -> str:
    """JSON that every reader takes: what is not finite, as the error bar of an element without calibration, is null.

    ascii_only : other characters as escapes, for files; without, as they are, for people
    """
    return json.dumps(finite(value), indent=1, allow_nan=False, ensure_ascii=ascii_only)


def finite(value: Any) -> Any:
    """The same with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def canonical(content: Mapping[str, Any]) -> str:
    """The one text of a JSON object: keys sorted, no spaces, all digits.  Raises ``ValueError`` for NaN and infinity."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: str | Path, kind: Kind, content: Mapping[str, Any]) -> None:
    """Write a sealed file; an older one stays until the new one is whole.  What is not finite is written as null."""
    if taken := {KIND, SEAL} & set(content):
        raise ValueError(f"a sealed file says {', '.join(sorted(taken))} by itself")
    # as it will be read: keys are text there, and tuples are lists
    said = json.loads(json_text({KIND: kind.name, **content}))
    write_atomically(Path(path), json_text({**said, SEAL: text_hash(canonical(said))}).encode())


def read_json(path: str | Path, kind: Kind | None = None) -> dict[str, Any]:
    """The content of a sealed file, verified against its hash.

    Parameters
    ----------
    path : of the file
    kind : that it must be of; None takes any

    Raises
    ------
    DamagedFileError : no JSON, a key twice, or a content that does not match the hash
    DataError, or what the kind says : no such file, none with a seal, or one of another kind
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
    """Hold a content against its hash."""
    try:
        found = text_hash(canonical(said))
    except ValueError:  # a number beyond all numbers
        found = "nothing"
    if found != seal:
        raise DamagedFileError(
            f"{path} was changed since it was written: its content hashes to {found[:12]}…, it says {seal[:12]}…. A file of "
            f"{name} is not edited by hand; {remedy}"
        )
