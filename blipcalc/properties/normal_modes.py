"""Normal modes of one surface, and the modes of another one that are the same.

    D e_j = λ_j e_j,   ω_j = sign(λ_j) √|λ_j|

    S_ij = Σ_{i' in the group of i} |⟨e_i'| e_j⟩|²,   assignment of j to i that makes Σ S largest (Kuhn 1955)

| symbol | variable | meaning |
|---|---|---|
| D | ``dynamical`` | Hessian over √(m_a m_b), eV/Å²/u |
| ω | ``frequencies`` | cm⁻¹; negative stands for imaginary |
| group | ``labels`` | modes of one frequency within ``degenerate_cm``: any mixture of them is as good |

Within a group modes go by their frequency: their vectors turn from draw to draw, and overlaps would swap them at random.
"""

from __future__ import annotations

from typing import NamedTuple

import ase.units
import numpy as np
from scipy.optimize import linear_sum_assignment

#: cm⁻¹ of a mode of 1 eV/Å²/u
CM = float(ase.units._hbar * ase.units.m / np.sqrt(ase.units._e * ase.units._amu) / ase.units.invcm)


class Modes(NamedTuple):
    """Of one surface, in rising order.

    frequencies : (…, M) cm⁻¹; vectors : (…, P, M), orthonormal columns
    """

    frequencies: np.ndarray
    vectors: np.ndarray


def modes_of(dynamical: np.ndarray, basis: np.ndarray | None = None) -> Modes:
    """Of (…, P, P) eV/Å²/u, real or complex, within the space that (P, M) orthonormal columns span."""
    if basis is not None:
        dynamical = basis.T @ dynamical @ basis
    values, vectors = np.linalg.eigh(dynamical)
    return Modes(np.sign(values) * np.sqrt(np.abs(values)) * CM, vectors if basis is None else basis @ vectors)


def labels(frequencies: np.ndarray, degenerate_cm: float) -> np.ndarray:
    """(M,) number of the group of each of some rising frequencies; neighbours closer than ``degenerate_cm`` share one."""
    return np.concatenate([[0], np.cumsum(np.diff(frequencies) > degenerate_cm)])[: len(frequencies)]


def matched(driving: Modes, own: Modes, degenerate_cm: float) -> tuple[np.ndarray, np.ndarray]:
    """The modes of another surface in the order of those of the driving one.

    returns : (M,) which of its modes, and (M,) how much of it lies in the group that it is taken for, from 0 to 1
    """
    group = labels(driving.frequencies, degenerate_cm)
    overlap = np.abs(driving.vectors.conj().T @ own.vectors) ** 2
    shared = np.array([overlap[group == g].sum(axis=0) for g in group])
    order = linear_sum_assignment(shared, maximize=True)[1]
    for g in np.unique(group):
        inside = group == g
        order[inside] = sorted(order[inside], key=lambda j: own.frequencies[j])
    return order, shared[np.arange(len(order)), order]
