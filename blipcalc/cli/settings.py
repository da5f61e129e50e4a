"""``--set section.key=value``: any setting of the configuration models, from the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from blipcalc.errors import ConfigurationError

#: stages of training, and what turns each on
STAGES = {
    "warm": "training without noise (--warm-epochs)",
    "training": "training with noise in every step (--epochs)",
    "noise": "fit of the noise alone (--noise-epochs)",
}


def sections(assignments: Sequence[str], **given: dict[str, Any]) -> dict[str, dict[str, Any]]:
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
            if not isinstance(target, dict):
                raise ConfigurationError(f"{key!r} in {assignment!r} is a value already, not a group of settings")
        target[keys[-1]] = _value(text)
    return dict(given)


def without_idle_stages(given: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """Sections in which stages of training without epochs are None; ``training`` stays, as the stage that may be empty.

    Raises :class:`ConfigurationError` for a setting of a stage that has no epochs: it would not act.
    """
    kept: dict[str, dict[str, Any] | None] = dict(given)
    for stage, meaning in STAGES.items():
        if given[stage]["epochs"] != 0:
            continue
        idle = sorted(set(given[stage]) - {"epochs", "device", "seed"})
        if idle:
            others = "; ".join(f"{name}.*: {what}" for name, what in STAGES.items())
            raise ConfigurationError(f"{stage}.{idle[0]} would not act, there is no {meaning} ({others})")
        if stage != "training":
            kept[stage] = None
    return kept


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
