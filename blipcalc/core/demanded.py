"""Access to optional values, which are None where they were not requested."""

from __future__ import annotations

from typing import TypeVar

from blipcalc.errors import NotEvaluatedError

Value = TypeVar("Value")


def demanded(value: Value | None, what: str) -> Value:
    """Return the value; raise an error where it is None.

    what : name of the value in the message, such as ``forces``
    raises : NotEvaluatedError for None
    """
    if value is None:
        raise NotEvaluatedError(f"expected {what}, got None: they were not evaluated, or the model does not give them")
    return value
