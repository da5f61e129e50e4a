"""Solve linear equations with many right-hand sides by conjugate gradients, using only products of the matrices.

    H_r x_r = b_r,   until r_rᵀ M r_r ≤ wanted_r

| symbol | variable | meaning |
|---|---|---|
| H_r | ``product`` | matrix of row r, symmetric; must be positive definite |
| M | ``precondition`` | approximation to H⁻¹; 1 by default |
| r_r | ``rest`` | b_r - H_r x_r |

Source: Hestenes and Stiefel 1952, doi:10.6028/jres.049.044.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Solution:
    """Solution of R rows of equations.

    x, rest : (R, f)
    left : (R,) rᵀ M r; solved : (R,) whether that is small enough
    softest : (R,) the smallest curvature found along a search direction, an upper bound on the smallest eigenvalue
    """

    x: np.ndarray
    rest: np.ndarray
    left: np.ndarray
    solved: np.ndarray
    softest: np.ndarray


def conjugate_gradients(
    product: Callable[[np.ndarray, np.ndarray], np.ndarray],
    right: np.ndarray,
    wanted: Callable[[np.ndarray], np.ndarray],
    iterations: int,
    precondition: Callable[[np.ndarray], np.ndarray] = lambda rest: rest,
) -> Solution:
    """Solve all rows in one batch, each until it is solved; ends early if a curvature is not positive.

    product : (A,) indices of rows, and (A, f) a direction for each -> (A, f) H_r times the direction
    right : (R, f); wanted : (R,) initial rᵀ M r -> (R,) rᵀ M r at which a row is solved
    """
    x, rest = np.zeros_like(right), right.copy()
    steep = precondition(rest)
    towards, left = steep.copy(), _dots(rest, steep)
    enough, softest = wanted(left), np.full(len(right), np.inf)
    for _ in range(iterations):
        active = np.flatnonzero(left > enough)
        if not len(active):
            break
        bent = product(active, towards[active])
        along = _dots(towards[active], bent)
        softest[active] = np.minimum(softest[active], along / _dots(towards[active], towards[active]))
        if (along <= 0).any():
            break
        step = (left[active] / along)[:, None]
        x[active] += step * towards[active]
        rest[active] -= step * bent
        steep = precondition(rest[active])
        fresh = _dots(rest[active], steep)
        towards[active] = steep + (fresh / left[active])[:, None] * towards[active]
        left[active] = fresh
    return Solution(x, rest, left, left <= enough, softest)


def _dots(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.einsum("rf,rf->r", one, other)
