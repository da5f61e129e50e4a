"""Fragments of a molecule: what hangs together when a bond is cut, and how it is moved as one body."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from blipcalc.errors import StructureError
from blipcalc.relaxation.bonds import bonded_pairs
from blipcalc.settings import several, whole


def side_of(atoms: Atoms, near: int, far: int) -> list[int]:
    """Atoms that are bonded to ``far``, directly or through others, when the bond between ``near`` and ``far`` is cut.

    raises : StructureError where that includes ``near``: the bond is in a ring, or there is none
    """
    first, second, *_ = bonded_pairs(atoms)
    bonded: dict[int, list[int]] = {}
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        if {i, j} != {near, far}:
            bonded.setdefault(i, []).append(j)
            bonded.setdefault(j, []).append(i)
    found, left = {far}, [far]
    while left:
        for atom in bonded.get(left.pop(), []):
            if atom not in found:
                found.add(atom)
                left.append(atom)
    if near in found:
        raise StructureError(
            f"atoms {near} and {far} are connected through others, too: expected a bond that divides the molecule, outside of "
            "rings; take indices along bonds, or say which atoms move (moving=[...])"
        )
    return sorted(found)


def indices_of(name: str, values: Sequence[int], atoms: Atoms, count: int | None = None) -> list[int]:
    """Different indices of atoms, ``count`` of them.

    raises : StructureError for an index that is not there, or occurs twice, or another number of them
    """
    what = "a list of indices of atoms" if count is None else f"{count} indices of atoms"
    found = [whole("index", i, 0, error=StructureError) for i in several(name, values, what, error=StructureError)]
    if len(set(found)) != len(found) or (count is not None and len(found) != count):
        raise StructureError(f"{name}={found}; expected {what}, all different")
    if found and max(found) >= len(atoms):
        raise StructureError(f"{name}={found}; the structure has {len(atoms)} atoms, numbered from 0")
    return found


def turned(atoms: Atoms, indices: Sequence[int], angle: float, moving: Sequence[int]) -> Atoms:
    """A copy with a dihedral angle (degrees), the moving atoms turned as one body."""
    moved = atoms.copy()
    moved.set_constraint()
    moved.set_dihedral(*indices, angle, indices=list(moving))
    return moved


def pulled(atoms: Atoms, indices: Sequence[int], distance: float, moving: Sequence[int]) -> Atoms:
    """A copy with a distance (Å) between two atoms, the moving atoms shifted as one body along the line between them."""
    moved = atoms.copy()
    moved.set_constraint()
    i, j = indices
    way = moved.get_distance(i, j, mic=True, vector=True)
    length = np.linalg.norm(way)
    moved.positions[list(moving)] += way / length * (distance - length)
    return moved
