"""Reweighting of the frames of one run: averages of K similar ensembles from a single one.

A run in equilibrium on the surface E samples exp(-βE).  Averages on surface k use the same frames with other weights:

    h_k = β (E_k - E)

    direct           w_tk = exp(-h_tk) / Σ_t exp(-h_tk)      exact; few frames carry the weight where h varies strongly
    cumulant (CEA)   w_tk = [1 - (h_tk - ⟨h_k⟩)] / T      ⟨A⟩ - [⟨A h_k⟩ - ⟨A⟩⟨h_k⟩], first order
    next cumulant    w_tk = ½ [(h_tk - ⟨h_k⟩)² - ⟨(h_tk - ⟨h_k⟩)²⟩] / T      the next order

| symbol | variable | meaning |
|---|---|---|
| β | | 1 / kT of the run |
| h | ``h`` | (T, K), at each of T frames |
| A | ``values`` | (T, 1, …), or (T, K, …) where it differs between the surfaces itself |

At constant pressure pV is the same on both surfaces, and cancels.  A constant in E_k - E cancels too.

Source: Imbalzano et al. 2021, doi:10.1063/5.0036522; how the error of direct weights grows with the spread of h: Ceriotti et al.
2012, doi:10.1098/rspa.2011.0413; N_eff: Kish 1965.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Method = Literal["reweight", "cea"]


def weights(h: ArrayLike, method: Method) -> Array:
    """Return weights of frames (T, K) with sum 1 over the frames for each surface; see the docstring of this module."""
    h = np.asarray(h, dtype=np.float64)
    if method == "reweight":
        found = np.exp(h.min(axis=0) - h)
        return found / found.sum(axis=0)
    return (1.0 - (h - h.mean(axis=0))) / len(h)


def next_weights(h: ArrayLike) -> Array:
    """Return weights of the next cumulant, (T, K), with sum 0."""
    values = np.asarray(h)
    squares = np.square(values - values.mean(axis=0))
    return 0.5 * (squares - squares.mean(axis=0)) / len(squares)


def effective_fraction(h: ArrayLike) -> Array:
    """Return N_eff / N of direct weights, (K,): (Σ w)² / (N Σ w²) for independent frames; exp(-Var h) where h is Gaussian."""
    found = weights(h, "reweight")
    return 1.0 / (len(found) * np.square(found).sum(axis=0))


def averages(values: ArrayLike, frame_weights: ArrayLike) -> Array:
    """Return Σ_t w_tk A_tk (K, …) of values (T, 1 or K, …) and weights (T, K)."""
    values, w = np.asarray(values, dtype=np.float64), np.asarray(frame_weights, dtype=np.float64)
    if values.shape[1] == 1:
        return np.tensordot(w, values[:, 0], axes=(0, 0))
    return np.einsum("tk,tk...->k...", w, values)
