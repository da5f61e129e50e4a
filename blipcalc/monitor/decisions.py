"""Define readings of a structure, and decisions of criteria and fault checks on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reading:
    """Uncertainties, forces and positions of one structure of n atoms, at one check.

    step : of the dynamics
    symbols : (n,) elements
    atom_std : (n,) eV/Å
    energy_std : eV
    mask : (n,) True for atoms that count
    failure : what is not finite, or why there is no prediction or no variance; empty without a failure
    latent_distance : (n,) of each atom from the training data; None for a model without a domain
    pressure_GPa, pressure_std_GPa : NaN unless requested
    positions : (n, 3) Å; forces : (n, 3) eV/Å to which ``atom_std`` belongs; None if not given
    """

    step: int
    symbols: tuple[str, ...]
    atom_std: np.ndarray
    energy_std: float
    mask: np.ndarray
    failure: str = ""
    latent_distance: np.ndarray | None = None
    pressure_GPa: float = math.nan
    pressure_std_GPa: float = math.nan
    positions: np.ndarray | None = None
    forces: np.ndarray | None = None

    @property
    def n_atoms(self) -> int:
        """Return the number of atoms n."""
        return len(self.symbols)

    @property
    def max_atom_std(self) -> float:
        """Return the largest ``atom_std`` of the atoms that count, eV/Å; NaN if one of them is NaN; 0 if none counts."""
        counted = self.atom_std[self.mask]
        return float(counted.max()) if counted.size else 0.0

    @property
    def max_latent_distance(self) -> float:
        """Return the largest latent distance of the atoms that count; NaN if one is NaN or none is known."""
        if self.latent_distance is None:
            return math.nan
        counted = self.latent_distance[self.mask]
        return float(counted.max()) if counted.size else 0.0

    @property
    def worst_atom(self) -> int:
        """Return the index of the counted atom with the largest ``atom_std``, NaN first; -1 if no atom counts."""
        order = worst_first(self.atom_std, self.mask)
        return order[0] if order else -1


@dataclass(frozen=True)
class Decision:
    """Decision of a criterion or a fault check.

    breached : whether the limit was exceeded, so that the monitor acts
    atoms : indices of the atoms beyond the limit, worst first
    value, threshold, unit : of the comparison; passed while value ≤ threshold
    reason : one sentence
    step : of the dynamics
    halts : whether a breach halts the run; else it is a warning
    is_hard : whether it comes from a fault check or a value that is not finite, for which a reference force is no remedy
    """

    breached: bool
    atoms: tuple[int, ...]
    value: float
    threshold: float
    unit: str
    reason: str
    step: int = 0
    halts: bool = True
    is_hard: bool = False


CriterionFunction = Callable[[Reading], Decision]


def worst_first(values: np.ndarray, chosen: np.ndarray) -> tuple[int, ...]:
    """Return the indices where ``chosen`` is True, by falling value, NaN first."""
    indices = np.flatnonzero(chosen)
    keys = np.where(np.isnan(values[indices]), np.inf, values[indices])
    order = np.lexsort((indices, -keys, ~np.isnan(values[indices])))
    return tuple(int(i) for i in indices[order])


def gravest(decisions: Sequence[Decision]) -> Decision:
    """Return the gravest breach: halts before warnings, fault checks before criteria; without a breach, the first decision."""
    order = sorted(decisions, key=lambda decision: (not decision.halts, not decision.is_hard))
    breached = [decision for decision in order if decision.breached]
    return breached[0] if breached else decisions[0]
