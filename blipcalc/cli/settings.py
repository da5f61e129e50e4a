"""``--set section.key=value``: any setting of the configuration models, from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from blipcalc.errors import ConfigurationError


def sections(assignments: Sequence[str], **given: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """Merge assignments such as ``training.batch_size=5`` into the sections.

    Values are read as JSON where they can be, else as text; keys are checked by the models that take them.

    Raises :class:`ConfigurationError` for an unknown section or an assignment without a value.
    """
    for assignment in assignments:
        path, sign, text = assignment.partition("=")
        section, *keys = path.split(".")
        if not sign or not keys:
            raise ConfigurationError(f"expected --set section.key=value, got {assignment!r}")
        if section not in given:
            near = get_close_matches(section, given, n=1, cutoff=0.0)
            raise ConfigurationError(f"unknown section {section!r} in {assignment!r}; did you mean {near[0]!r}?")
        target = given[section]
        for key in keys[:-1]:
            target = target.setdefault(key, {})
        target[keys[-1]] = _value(text)
    return dict(given)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
