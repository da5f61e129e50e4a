"""Find the fragments of a molecule after cutting a bond, and move them as rigid bodies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from blipcalc.errors import StructureError
from blipcalc.relaxation.bonds import bonded_pairs
from blipcalc.settings import several, whole


def side_of(atoms: Atoms, near: int, far: int) -> list[int]:
    """Return the atoms bonded to ``far``, directly or through others, when the bond between ``near`` and ``far`` is cut.

    raises : StructureError if they include ``near``: the bond is in a ring, or the two atoms are not bonded directly
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
    """Return different indices of atoms, ``count`` of them if given.

    raises : StructureError for an index out of range, a repeated index, or another number of them
    """
    what = "a list of indices of atoms" if count is None else f"{count} indices of atoms"
    found = [whole("index", i, 0, error=StructureError) for i in several(name, values, what, error=StructureError)]
    if len(set(found)) != len(found) or (count is not None and len(found) != count):
        raise StructureError(f"{name}={found}; expected {what}, all different")
    if found and max(found) >= len(atoms):
        raise StructureError(f"{name}={found}; the structure has {len(atoms)} atoms, numbered from 0")
    return found


def turned(atoms: Atoms, indices: Sequence[int], angle: float, moving: Sequence[int]) -> Atoms:
    """Return a copy with a given dihedral angle (degrees), the moving atoms rotated as a rigid body."""
    moved = atoms.copy()
    moved.set_constraint()
    moved.set_dihedral(*indices, angle, indices=list(moving))
    return moved


def pulled(atoms: Atoms, indices: Sequence[int], distance: float, moving: Sequence[int]) -> Atoms:
    """Return a copy with a given distance (Å) of two atoms, the moving atoms shifted along the line between them."""
    moved = atoms.copy()
    moved.set_constraint()
    i, j = indices
    way = moved.get_distance(i, j, mic=True, vector=True)
    length = np.linalg.norm(way)
    moved.positions[list(moving)] += way / length * (distance - length)
    return moved
