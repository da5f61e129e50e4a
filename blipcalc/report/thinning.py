"""Long series made short for a picture, without losing a peak or a gap."""

from __future__ import annotations

import numpy as np

#: points of a line that a picture shows at most
MOST = 2000


def thinned(values: np.ndarray, most: int = MOST) -> np.ndarray:
    """Indices of a series that keep its shape: the largest, the smallest and the first gap of every bin, and both ends.

    values : (n,) with NaN or infinity where there is nothing
    most : points that may be left; shorter series stay as they are
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
    """At most so many of n indices, spread evenly, both ends among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)) if n else np.arange(0)
