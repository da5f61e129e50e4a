"""What two writers made of one model, put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blipcalc.errors import ChangedFileError


def merged(
    path: object, loaded: Mapping[str, Any], mine: Mapping[str, Any], stored: Mapping[str, Any]
) -> dict[str, Any]:
    """{name: value} with the changes of both; a name that is missing, or None, stands for something that is not there.

    path : of the file, for the message
    loaded : as both began; mine : as it is to be saved; stored : as somebody else saved it meanwhile

    raises : ChangedFileError where both changed the same, and not alike
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
