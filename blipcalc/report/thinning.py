"""Thin long series for a picture, without losing a peak or a gap."""

from __future__ import annotations

import numpy as np

#: most points of a line in a picture
MOST = 2000


def thinned(values: np.ndarray, most: int = MOST) -> np.ndarray:
    """Return indices that keep the shape of a series: maximum, minimum and first gap of every bin, and both ends.

    values : (n,) with NaN or infinity at gaps
    most : points to keep; shorter series are unchanged
    """
    n = len(values)
    if n <= most:
        return np.arange(n)
    kept = {0, n - 1}
    for rows in np.array_split(np.arange(n), max(1, (most - 2) // 3)):
        finite = np.isfinite(values[rows])
        if not finite.all():
            kept.add(int(rows[np.argmin(finite)]))
        if finite.any():
            known = rows[finite]
            kept |= {int(known[np.argmin(values[known])]), int(known[np.argmax(values[known])])}
    return np.array(sorted(kept))


def evenly(n: int, most: int) -> np.ndarray:
    """Return at most ``most`` of n indices, evenly spread, including both ends."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)) if n else np.arange(0)
