"""Merging of two changes of one model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from blipcalc.errors import ChangedFileError
from blipcalc.model_file.model import Model


def put_together(path: object, loaded: Model, mine: Model, stored: Model) -> Model:
    """Return my model with the changes that another process made to its file; all three are of one network.

    path : of the file, for the message
    loaded : as both began; mine : to be saved; stored : as the other process saved it meanwhile

    raises : ChangedFileError where both changed the same entry differently
    """
    found = merged(path, *map(_changeable, (loaded, mine, stored)))
    domain = mine.domain if found.pop("domain") == _changeable(mine)["domain"] else stored.domain
    surface, training = found.pop("surface"), found.pop("training")
    calibrations = tuple(calibration for calibration in found.values() if calibration is not None)
    return replace(mine, domain=domain, surface=surface, training=training, calibrations=calibrations)


def merged(
    path: object, loaded: Mapping[str, Any], mine: Mapping[str, Any], stored: Mapping[str, Any]
) -> dict[str, Any]:
    """Return {name: value} with the changes of both; a missing name, or None, stands for an absent entry.

    raises : ChangedFileError
    """
    found, clashes = {}, []
    for name in dict.fromkeys([*mine, *stored, *loaded]):
        before, own, theirs = loaded.get(name), mine.get(name), stored.get(name)
        if own != theirs and own != before and theirs != before:
            clashes.append(name)
        found[name] = theirs if own == before else own
    if clashes:
        raise ChangedFileError(
            f"{path} changed since it was loaded, and so did, otherwise, {', '.join(clashes)}; load it again and repeat "
            "the change, or save under another name"
        )
    return found


def _changeable(model: Model) -> dict[str, Any]:
    """Return {name: value} of the entries that may change for the same network."""
    fixed = {
        "surface": model.surface,
        "training": model.training,
        "domain": None if model.domain is None else model.domain.hash,
    }
    return fixed | {
        f"the calibration of surface={c.surface}, K={c.n_draws}, seed={c.seed}": c for c in model.calibrations
    }
