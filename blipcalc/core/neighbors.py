"""Neighbour pairs within a cutoff, in one canonical order.

The search is ``matscipy.neighbour_list``.  This module adds a canonical order (target, source, cell shift), and a list with a
skin that is reused after small moves and then gives *the same pairs in the same order* as a new search.  Bit-identical restarts
need this, since floating-point sums depend on the order of their terms.
"""

from __future__ import annotations

import numpy as np
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list

from blipcalc.core.validate import check_distances
from blipcalc.errors import ExtentError

#: largest number of copies of the cell within the cutoff; a cube of 0.6 Å has as many for 6 Å
MOST_IMAGES = 10_000
#: largest number of boxes of the search; a cell with more is mostly empty, and is divided more coarsely
MOST_BOXES = 10_000_000


def search(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs closer than ``cutoff``, or a few more, in canonical order: (2, E) sources and targets, (E, 3) shifts."""
    box, origin = _search_box(positions, cell, pbc, cutoff)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)  # between opposite faces
    images = float(np.prod(1.0 + 2.0 * cutoff / heights[pbc]))
    if images > MOST_IMAGES:
        raise ExtentError(
            f"{images:.2g} copies of the cell {cell.tolist()} lie within the cutoff of {cutoff:g} Å, expected at most "
            f"{MOST_IMAGES}; is it in Å? A sheared cell becomes compact with ase.build.minkowski_reduce"
        )
    while np.prod(np.maximum(heights / cutoff, 1.0)) > MOST_BOXES:
        cutoff *= 2.0
    target, source, shifts = neighbour_list(
        "ijS", positions=positions, cell=box, cell_origin=origin, pbc=pbc, cutoff=float(cutoff)
    )
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], source, target))
    edge_index = np.stack([source[order], target[order]]).astype(np.int64)
    return edge_index, shifts[order].astype(np.int64)


def _search_box(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return cell and origin for the search, which divides the cell into boxes of the size of the cutoff.

    Cell vectors along axes that are not periodic are replaced by unit vectors at right angles to the others; where the atoms
    are dense enough for boxes to pay off, these are scaled to the length of the structure.
    """
    box, origin = complete_cell(np.where(pbc[:, None], cell, 0.0)), np.zeros(3)
    along = positions @ box[~pbc].T
    if not len(along) or pbc.all():
        return box, origin
    lowest, extent = along.min(axis=0), np.ptp(along, axis=0) + 1e-6
    if np.prod(np.maximum(extent / cutoff, 1.0)) <= len(positions):
        origin = lowest @ box[~pbc]
        box[~pbc] *= np.maximum(extent, 1.0)[:, None]
    return box, origin


def _squared_distances(
    positions: np.ndarray, cell: np.ndarray, edge_index: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """Return squared distances (E,) Å², by one formula for new and reused lists."""
    vectors = positions[edge_index[0]] - positions[edge_index[1]]
    if shifts.any():
        vectors = vectors + shifts @ cell
    return np.einsum("ei,ei->e", vectors, vectors)


class NeighborList:
    """A neighbour list with a skin, reused until an atom has moved by half the skin or the cell has changed.

    Parameters
    ----------
    cutoff : Å
    skin : Å added to the cutoff of the stored list; 0 searches at every call
    """

    def __init__(self, cutoff: float, skin: float = 1.0) -> None:
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.n_searches = 0
        self._reference: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._pairs: tuple[np.ndarray, np.ndarray] | None = None

    def _stale(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        if self._reference is None or self.skin <= 0:
            return True
        old_positions, old_cell, old_pbc = self._reference
        if len(old_positions) != len(positions) or (old_pbc != pbc).any() or (old_cell != cell).any():
            return True
        moved = positions - old_positions
        # this form makes NaN count as moved
        return not np.einsum("ni,ni->n", moved, moved).max() < (0.5 * self.skin) ** 2

    def update(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs closer than the cutoff: (2, E) sources and targets, (E, 3) shifts, int64.

        Raises :class:`CoincidentAtomsError` for two atoms at one place.
        """
        positions, cell = np.asarray(positions, dtype=np.float64), np.asarray(cell, dtype=np.float64)
        pbc = np.asarray(pbc, dtype=bool)
        pairs = None if self._stale(positions, cell, pbc) else self._pairs
        if pairs is None:
            pairs = self._pairs = search(positions, cell, pbc, self.cutoff + max(self.skin, 1e-6))
            self._reference = (positions.copy(), cell.copy(), pbc.copy())
            self.n_searches += 1
        edge_index, shifts = pairs
        squared = _squared_distances(positions, cell, edge_index, shifts)
        check_distances(squared, edge_index)
        keep = squared < self.cutoff**2
        return edge_index[:, keep], shifts[keep]


def neighbor_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a new search in canonical order (target, source, shift): (2, E) sources and targets, (E, 3) shifts."""
    return NeighborList(cutoff, skin=0.0).update(positions, cell, pbc)
