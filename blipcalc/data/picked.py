"""Selection of frames by an ASE index."""

from __future__ import annotations

from ase import Atoms
from ase.io.formats import string2index


def picked(frames: list[Atoms], index: int | str) -> Atoms | list[Atoms]:
    """Return one frame for an int, also as text; a list for a slice as text.

    raises : TypeError for other text; IndexError where there is no such frame
    """
    place = string2index(index) if isinstance(index, str) else index
    if isinstance(place, str):
        raise TypeError(f"expected a number or a slice such as '::10', got {place!r}")
    return frames[place]
