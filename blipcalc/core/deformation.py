"""Displaced and strained structures, with the coordinates q = (u, e) of :mod:`blipcalc.core.curvature`."""

from __future__ import annotations

import numpy as np
from ase import Atoms


def displaced(atoms: Atoms, q: np.ndarray) -> Atoms:
    """Return a copy with atoms moved by u, then all strained by e, q = (u, e), without constraints and calculator."""
    moved, n = atoms.copy(), 3 * len(atoms)
    moved.set_constraint()
    moved.calc = None
    d = deformation(q[n:])
    moved.set_cell(moved.cell.array @ d)
    moved.positions = (moved.positions + q[:n].reshape(-1, 3)) @ d
    return moved


def deformation(e: np.ndarray) -> np.ndarray:
    """Return 1 + ε (3, 3) of strains (6,) in Voigt order, shears twice the entries; the identity for none."""
    if not len(e):
        return np.eye(3)
    xx, yy, zz, yz, xz, xy = e
    return np.eye(3) + np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])
