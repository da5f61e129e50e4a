"""Compute normal modes of a potential, and match them to those of another one.

    D e_j = λ_j e_j,   ω_j = sign(λ_j) √|λ_j|

    S_ij = Σ_{i' in the group of i} |⟨e_i'| e_j⟩|²,   assignment of j to i that makes Σ S largest (Kuhn 1955)

| symbol | variable | meaning |
|---|---|---|
| D | ``dynamical`` | Hessian over √(m_a m_b), eV/Å²/u |
| ω | ``frequencies`` | cm⁻¹; negative stands for imaginary |
| group | ``labels`` | modes degenerate within ``degenerate_cm``: any mixture of them is equivalent |

Within a group modes are matched by frequency: their vectors mix differently in each draw, and overlaps would swap them randomly.
"""

from __future__ import annotations

from typing import NamedTuple

import ase.units
import numpy as np
from scipy.optimize import linear_sum_assignment

#: cm⁻¹ of a mode of 1 eV/Å²/u
CM = float(ase.units._hbar * ase.units.m / np.sqrt(ase.units._e * ase.units._amu) / ase.units.invcm)


class Modes(NamedTuple):
    """Normal modes of one or more potentials, in rising order.

    frequencies : (…, M) cm⁻¹; vectors : (…, P, M), orthonormal columns
    """

    frequencies: np.ndarray
    vectors: np.ndarray


def modes_of(dynamical: np.ndarray, basis: np.ndarray | None = None) -> Modes:
    """Return the modes of matrices (…, P, P) eV/Å²/u, real or complex, in the span of (P, M) orthonormal columns."""
    if basis is not None:
        dynamical = basis.T @ dynamical @ basis
    values, vectors = np.linalg.eigh(dynamical)
    return Modes(np.sign(values) * np.sqrt(np.abs(values)) * CM, vectors if basis is None else basis @ vectors)


def labels(frequencies: np.ndarray, degenerate_cm: float) -> np.ndarray:
    """Return the group number (M,) of each rising frequency; neighbours closer than ``degenerate_cm`` share one."""
    return np.concatenate([[0], np.cumsum(np.diff(frequencies) > degenerate_cm)])[: len(frequencies)]


def matched(driving: Modes, own: Modes, degenerate_cm: float) -> tuple[np.ndarray, np.ndarray]:
    """Match the modes of another potential to those of the driving one.

    returns : (M,) index of the other potential's mode, and (M,) its overlap with the group it is assigned to, from 0 to 1
    """
    group = labels(driving.frequencies, degenerate_cm)
    overlap = np.abs(driving.vectors.conj().T @ own.vectors) ** 2
    shared = np.array([overlap[group == g].sum(axis=0) for g in group])
    order = linear_sum_assignment(shared, maximize=True)[1]
    for g in np.unique(group):
        inside = group == g
        order[inside] = sorted(order[inside], key=lambda j: own.frequencies[j])
    return order, shared[np.arange(len(order)), order]
