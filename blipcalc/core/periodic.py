"""Vectors in a cell that repeats in some directions; what its vectors in the others are does not matter."""

from __future__ import annotations

import numpy as np
from ase.cell import Cell
from ase.geometry import find_mic


def repeating(cell: np.ndarray, pbc: np.ndarray) -> Cell:
    """The vectors along which a structure repeats, completed by unit vectors: others may be zero, or dependent on these."""
    return Cell(np.where(np.asarray(pbc)[:, None], np.asarray(cell), 0.0)).complete()


def shortest(vectors: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """(m, 3) Å to the nearest images, of (m, 3)."""
    return find_mic(vectors, repeating(cell, pbc), pbc)[0]
