"""Find bonds: pairs closer than 1.2 times the sum of their covalent radii (Cordero et al. 2008, as in ASE)."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, primitive_neighbor_list

from blipcalc.core.periodic import repeating

#: factor on the sum of covalent radii below which two atoms are bonded
STRETCH = 1.2


def bonded_pairs(atoms: Atoms, stretch: float = STRETCH) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return indices i ≤ j, distances (Å) and cell shifts (B, 3) of all bonds, each once, shortest first."""
    cell, reach = repeating(atoms.cell, atoms.pbc), natural_cutoffs(atoms, mult=stretch)
    i, j, distance, shifts = primitive_neighbor_list("ijdS", atoms.pbc, cell, atoms.positions, reach)
    later = np.array([tuple(s) > (0, 0, 0) for s in shifts], dtype=bool)
    kept = np.flatnonzero((i < j) | ((i == j) & later))
    kept = kept[np.argsort(distance[kept], kind="stable")]
    return i[kept], j[kept], distance[kept], shifts[kept]
