"""Settings: frozen pydantic models whose faults are named errors of this package."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from blipcalc.errors import ConfigurationError


class Settings(BaseModel):
    """Base of all settings; an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def of(cls, value: Self | Mapping[str, Any] | None) -> Self:
        """Settings from themselves, from a mapping, or the defaults.

        Raises :class:`ConfigurationError` for an unknown key or a value that is refused.
        """
        if isinstance(value, cls):
            return value
        try:
            return cls.model_validate(dict(value or {}))
        except ValidationError as error:
            raise ConfigurationError("; ".join(cls._fault(fault) for fault in error.errors())) from None

    @classmethod
    def _fault(cls, fault: Mapping[str, Any]) -> str:
        where = ".".join(map(str, fault["loc"])) or cls.__name__
        if fault["type"] == "extra_forbidden":
            near = get_close_matches(str(fault["loc"][-1]), cls.model_fields, n=1, cutoff=0.0)
            return f"unknown setting {where!r}; did you mean {near[0]!r}? Known: {', '.join(cls.model_fields)}"
        return f"{where}: {fault['msg']} (got {fault['input']!r})"
