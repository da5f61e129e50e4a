"""Contents of ASE's constraints, for identities and for files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ase.constraints
import numpy as np
from ase.io.jsonio import encode

from blipcalc.errors import ConfigurationError, DataError


def content_of(constraint: Any) -> str:
    """All that a constraint holds, as a text that is the same for the same content: what ``todict`` says, else its attributes.

    raises : ConfigurationError for one that holds what cannot be told apart, such as a function
    """
    kind = type(constraint)
    return f"{kind.__module__}.{kind.__qualname__} {_plain(_said(constraint) or vars(constraint), kind.__name__)}"


def stored(constraint: Any) -> dict[str, Any]:
    """The dictionary from which ASE makes the constraint anew; raises DataError for one of which it cannot."""
    kind, said = type(constraint), _said(constraint)
    if said is None or getattr(ase.constraints, said.get("name", ""), None) is not kind:
        raise DataError(
            f"a constraint {kind.__name__} cannot be kept in a file: ASE makes it from no dictionary; take it off "
            "(atoms.set_constraint()), and set it again after reading"
        )
    return said


def _said(constraint: Any) -> dict[str, Any] | None:
    """What ``todict`` gives; None where there is none, or it is not written."""
    try:
        said: object = constraint.todict()
    except (NotImplementedError, AttributeError):
        return None
    return dict(said) if isinstance(said, Mapping) else None


def _plain(value: Any, of: str) -> str:
    """A value as JSON with arrays, structures and all digits in it."""
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
