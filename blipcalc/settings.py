"""Settings and file schemas as frozen pydantic models, and checks of single values, with named errors of this package."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Self, SupportsInt, TypeVar, get_args, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator

from blipcalc.errors import BlipcalcError, ConfigurationError, DataError

#: upper bound of counts and indices
MOST = 2**63
#: ranges of values in files
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
#: for a number that may not be finite, which is null in a file
OR_NAN = WrapValidator(lambda value, check: math.nan if value is None else check(value))
#: largest number of faults of a file in a message
MOST_FAULTS = 5


class Settings(BaseModel):
    """Base of all settings; an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def of(cls, value: Self | Mapping[str, Any] | None) -> Self:
        """Return settings from settings, from a mapping, or by default.

        Raises :class:`ConfigurationError` for an unknown key or an invalid value.
        """
        if isinstance(value, cls):
            return value
        if not (value is None or isinstance(value, Mapping)):
            raise ConfigurationError(f"expected settings {{name: value}} of {cls.__name__}, got {reprlib.repr(value)}")
        try:
            return cls.model_validate(dict(value or {}))
        except ValidationError as error:
            raise ConfigurationError("; ".join(_fault(cls, fault) for fault in error.errors())) from None


Schema = TypeVar("Schema", bound=Settings)


def checked(
    schema: type[Schema], said: Mapping[str, Any], what: str, *, error: type[BlipcalcError] = DataError
) -> Schema:
    """Return the content of a file as its schema: types as in JSON, ranges, and no unknown key.

    what : the file and its intended content, for the message
    raises : ``error``, naming the wrong fields, their values, and for an unknown key the nearest known one
    """
    try:
        return schema.model_validate_json(json.dumps(said), strict=True)
    except ValidationError as found:
        faults = [_fault(schema, fault) for fault in found.errors()]
        more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        raise error(f"{what}: {'; '.join(faults[:MOST_FAULTS])}{more}") from None


def _fault(schema: type[BaseModel], fault: Mapping[str, Any]) -> str:
    where = ".".join(map(str, fault["loc"])) or schema.__name__
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known(schema, fault["loc"][:-1])
        if not known:
            return f"unknown setting {where!r}: there are none here"
        near = get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.0)
        return f"unknown setting {where!r}; did you mean {near[0]!r}? Known: {', '.join(known)}"
    came = "" if fault["type"] == "missing" else f" (got {reprlib.repr(fault['input'])})"
    return f"{where}: {fault['msg']}{came}"


def _known(schema: type, path: Sequence[str | int]) -> list[str]:
    """Return the names of the fields at a path in a schema."""
    for step in path:
        fields = _fields(schema)
        schema = _part(fields[step]) if step in fields else schema  # otherwise an index, or a key of a mapping
    return list(_fields(schema))


def _fields(schema: type) -> dict[str, Any]:
    """Return {name: type} of the fields of a schema."""
    if issubclass(schema, BaseModel):
        return {name: field.annotation for name, field in schema.model_fields.items()}
    return get_type_hints(schema)


def _part(hint: Any) -> Any:
    """Return the schema within a type such as ``list[Schema] | None``; None without one."""
    if isinstance(hint, type) and (issubclass(hint, BaseModel) or is_dataclass(hint)):
        return hint
    return next(filter(None, map(_part, get_args(hint))), None)


def number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    infinite: bool = False,
    error: type[BlipcalcError] = ConfigurationError,
) -> float:
    """Return a real number from the user; anything else, including NaN, is an error with the name of the value.

    above : exclusive lower bound
    infinite : whether infinity is allowed
    """
    found = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:  # an integer of hundreds of digits
            found = math.inf
    if not (found > above and (infinite or math.isfinite(found))):
        what = {-math.inf: "a number", 0.0: "a positive number"}.get(above, f"a number > {above:g}")
        raise error(f"{name}={reprlib.repr(value)}; expected {what}")
    return found


def whole(
    name: str,
    value: object,
    least: int = -MOST,
    *,
    what: str = "number",
    error: type[BlipcalcError] = ConfigurationError,
) -> int:
    """Return a whole number from the user, as ``int``; anything else is an error with the name of the value.

    what : is counted, in words
    """
    found = number(name, value, infinite=True, error=error)
    if not (isinstance(value, SupportsInt) and least <= found < MOST and int(found) == found):
        raise error(f"{name}={reprlib.repr(value)}; expected a whole {what}{'' if least == -MOST else f' ≥ {least}'}")
    return int(value)  # not of ``found``: a float does not hold all digits


def switch(name: str, value: object) -> bool:
    """Return a boolean from the user; anything but True, False, 0 or 1 is an error with the name of the value."""
    if not (type(value).__name__ in ("bool", "bool_") or (isinstance(value, int) and value in (0, 1))):
        raise ConfigurationError(f"{name}={reprlib.repr(value)}; expected True or False")
    return bool(value)


def choice(name: str, value: object, options: Sequence[object]) -> Any:
    """Return one of the options, which are words, True, False or None; anything else is an error with the name of the value."""
    if not ((value is None or isinstance(value, (str, bool))) and value in options):
        raise ConfigurationError(f"{name}={reprlib.repr(value)}; expected one of {', '.join(map(repr, options))}")
    return value


def path_of(name: str, value: object) -> Path:
    """Return a path from the user; anything but a path or its text is an error."""
    if not isinstance(value, (str, Path)) or not str(value):
        raise ConfigurationError(f"{name}={reprlib.repr(value)}; expected the path of a file")
    return Path(value)


def numbers(name: str, value: object, what: str) -> np.ndarray:
    """Return finite real numbers from the user, as float64; anything else is an error that names the expected values."""
    try:
        found = np.asarray(value)
        found = found.astype(np.float64) if found.dtype.kind in "fiu" else np.array(np.nan)
    except (ValueError, TypeError):
        found = np.array(np.nan)
    if not np.isfinite(found).all():
        raise ConfigurationError(f"{name}={reprlib.repr(value)}; expected {what}")
    return found


def several(name: str, value: Any, what: str, *, error: type[BlipcalcError] = ConfigurationError) -> list[Any]:
    """Return a list from the user; anything else is an error that names the expected values."""
    try:
        if isinstance(value, (str, bytes, Mapping)):
            raise TypeError
        return list(value)
    except TypeError:
        raise error(f"{name}={reprlib.repr(value)}; expected {what}") from None
