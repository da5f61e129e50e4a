"""Settings and schemas of files: frozen pydantic models, and single numbers, whose faults are named errors of this package."""

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

#: what is counted or numbered is below it
MOST = 2**63
#: ranges of what files hold
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
#: for a number that may be not finite, which a file has null for
OR_NAN = WrapValidator(lambda value, check: math.nan if value is None else check(value))
#: faults of a file that a message names
MOST_FAULTS = 5


class Settings(BaseModel):
    """Base of all settings; an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def of(cls, value: Self | Mapping[str, Any] | None) -> Self:
        """Settings from themselves, from a mapping, or the defaults.

        Raises :class:`ConfigurationError` for an unknown key or a value that is refused.
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
    """What a file says, held against its schema: types as JSON has them, ranges, and no unknown key.

    what : the file, and what it should hold, for the message
    raises : the error, naming the fields that are wrong, their values, and the known key that is nearest to an unknown one
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
    """Names of the fields of the part of a schema that a path leads to."""
    for step in path:
        fields = _fields(schema)
        schema = _part(fields[step]) if step in fields else schema  # else an index, or a key of a mapping
    return list(_fields(schema))


def _fields(schema: type) -> dict[str, Any]:
    """{name: type}."""
    if issubclass(schema, BaseModel):
        return {name: field.annotation for name, field in schema.model_fields.items()}
    return get_type_hints(schema)


def _part(hint: Any) -> Any:
    """The schema within a type such as ``list[Schema] | None``; None without one."""
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
    """A real number that a user gave; anything else, NaN among it, is an error with its name.

    above : what it must be greater than
    infinite : whether infinity is a number here
    """
    found = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:  # a whole number of hundreds of digits
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
    """A whole number that a user gave, as ``int``; anything else is an error with its name.

    what : is counted, in words
    """
    found = number(name, value, infinite=True, error=error)
    if not (isinstance(value, SupportsInt) and least <= found < MOST and int(found) == found):
        raise error(f"{name}={reprlib.repr(value)}; expected a whole {what}{'' if least == -MOST else f' ≥ {least}'}")
    return int(value)  # not of ``found``: a float has no room for all digits


def switch(name: str, value: object) -> bool:
    """Yes or no."""
    if not (type(value).__name__ in ("bool", "bool_") or (isinstance(value, int) and value in (0, 1))):
        raise ConfigurationError(f"{name}={reprlib.repr(value)}; expected True or False")
    return bool(value)


def choice(name: str, value: object, options: Sequence[object]) -> Any:
    """One of a few words, True, False or None."""
    if not ((value is None or isinstance(value, (str, bool))) and value in options):
        raise ConfigurationError(f"{name}={reprlib.repr(value)}; expected one of {', '.join(map(repr, options))}")
    return value


def path_of(name: str, value: object) -> Path:
    """A path; anything but one or its text is an error."""
    if not isinstance(value, (str, Path)) or not str(value):
        raise ConfigurationError(f"{name}={reprlib.repr(value)}; expected the path of a file")
    return Path(value)


def numbers(name: str, value: object, what: str) -> np.ndarray:
    """Finite real numbers that a user gave, as float64; anything else is an error that says what was expected."""
    try:
        found = np.asarray(value)
        found = found.astype(np.float64) if found.dtype.kind in "fiu" else np.array(np.nan)
    except (ValueError, TypeError):
        found = np.array(np.nan)
    if not np.isfinite(found).all():
        raise ConfigurationError(f"{name}={reprlib.repr(value)}; expected {what}")
    return found


def several(name: str, value: Any, what: str, *, error: type[BlipcalcError] = ConfigurationError) -> list[Any]:
    """What a user gave a list of, as a list; anything else is an error that says what was expected."""
    try:
        if isinstance(value, (str, bytes, Mapping)):
            raise TypeError
        return list(value)
    except TypeError:
        raise error(f"{name}={reprlib.repr(value)}; expected {what}") from None
