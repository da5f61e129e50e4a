"""Vectors in cells that are periodic in some directions only; cell vectors in the others have no effect."""

from __future__ import annotations

import numpy as np
from ase.cell import Cell
from ase.geometry import find_mic


def repeating(cell: np.ndarray, pbc: np.ndarray) -> Cell:
    """Return the periodic cell vectors, completed by unit vectors: the others may be zero, or linearly dependent on these."""
    return Cell(np.where(np.asarray(pbc)[:, None], np.asarray(cell), 0.0)).complete()


def shortest(vectors: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Return the vectors (m, 3) Å to the nearest images of vectors (m, 3)."""
    return find_mic(vectors, repeating(cell, pbc), pbc)[0]
