"""Contents of ASE's constraints, for identities and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ase.constraints
import numpy as np
from ase.io.jsonio import encode

from blipcalc.errors import ConfigurationError, DataError


def content_of(constraint: Any) -> str:
    """Return the content of a constraint as text, equal for equal content: its ``todict``, else its attributes.

    raises : ConfigurationError for content that cannot be compared, such as a function
    """
    kind = type(constraint)
    return f"{kind.__module__}.{kind.__qualname__} {_plain(_said(constraint) or vars(constraint), kind.__name__)}"


def stored(constraint: Any) -> dict[str, Any]:
    """Return the dictionary from which ASE rebuilds the constraint; raises DataError where it cannot."""
    kind, said = type(constraint), _said(constraint)
    if said is None or getattr(ase.constraints, said.get("name", ""), None) is not kind:
        raise DataError(
            f"a constraint {kind.__name__} cannot be kept in a file: ASE makes it from no dictionary; take it off "
            "(atoms.set_constraint()), and set it again after reading"
        )
    return said


def _said(constraint: Any) -> dict[str, Any] | None:
    """Return the ``todict`` of a constraint; None where it is missing or not implemented."""
    try:
        said: object = constraint.todict()
    except (NotImplementedError, AttributeError):
        return None
    return dict(said) if isinstance(said, Mapping) else None


def _plain(value: Any, of: str) -> str:
    """Return a value as JSON, including arrays and structures, with all digits."""
    try:
        return json.dumps(json.loads(encode(value)), sort_keys=True)
    except (TypeError, ValueError, AttributeError):
        pass
    if isinstance(value, Mapping):
        return repr({str(key): _plain(value[key], of) for key in sorted(value, key=str)})
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [_plain(part, of) for part in value]
        return repr(sorted(parts) if isinstance(value, (set, frozenset)) else parts)
    if isinstance(value, np.generic):
        return repr(value.item())
    raise ConfigurationError(
        f"constraint {of} holds a {type(value).__name__}, by which two runs cannot be told apart; give it a todict() that says "
        "what it is"
    )
