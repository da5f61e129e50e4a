"""Values that are None where nobody asked for them, at the places where somebody did."""

from __future__ import annotations

from typing import TypeVar

from blipcalc.errors import NotEvaluatedError

Value = TypeVar("Value")


def demanded(value: Value | None, what: str) -> Value:
    """The value.

    what : it is, for the message: ``forces``
    raises : NotEvaluatedError where there is none
    """
    if value is None:
        raise NotEvaluatedError(f"expected {what}, got None: they were not evaluated, or the model does not give them")
    return value
