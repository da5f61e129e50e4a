"""What a monitor knows of a structure, and what a criterion says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reading:
    """What a monitor knows of one structure of n atoms.

    step : of the dynamics
    symbols : (n,) elements
    atom_std : (n,) eV/Å
    energy_std : eV
    mask : (n,) True for atoms that count
    failure : what is not finite, or why there is no prediction or no variance; empty where all is well
    latent_distance : (n,) how far each atom is from the data; None where the model does not say
    pressure_GPa, pressure_std_GPa : NaN where nobody asked for them
    positions : (n, 3) Å; forces : (n, 3) eV/Å that ``atom_std`` is of; None where nobody gave them
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
        """Number of atoms n."""
        return len(self.symbols)

    @property
    def max_atom_std(self) -> float:
        """Largest ``atom_std`` among the atoms that count, eV/Å; NaN where one of them is; 0 where none counts."""
        counted = self.atom_std[self.mask]
        return float(counted.max()) if counted.size else 0.0

    @property
    def max_latent_distance(self) -> float:
        """Largest latent distance among the atoms that count; NaN where one of them is, or the model does not say."""
        if self.latent_distance is None:
            return math.nan
        counted = self.latent_distance[self.mask]
        return float(counted.max()) if counted.size else 0.0

    @property
    def worst_atom(self) -> int:
        """Its index, a NaN before any number; -1 where no atom counts."""
        order = worst_first(self.atom_std, self.mask)
        return order[0] if order else -1


@dataclass(frozen=True)
class Decision:
    """What a rule says of a reading.

    breached : True stops, records or flags
    atoms : indices of the atoms beyond the limit, worst first
    value, threshold, unit : what was compared; the rule holds while value ≤ threshold
    reason : one sentence
    step : of the dynamics
    halts : whether a breach asks for a halt; else it is a warning
    is_hard : whether it is of a fault or of what is not finite, which a better force does not mend
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
    """Indices where ``chosen``, by falling value, NaN before all."""
    indices = np.flatnonzero(chosen)
    keys = np.where(np.isnan(values[indices]), np.inf, values[indices])
    order = np.lexsort((indices, -keys, ~np.isnan(values[indices])))
    return tuple(int(i) for i in indices[order])


def gravest(decisions: Sequence[Decision]) -> Decision:
    """The first that is breached, one that halts before one that warns, a fault before a rule; where none is, the first."""
    order = sorted(decisions, key=lambda decision: (not decision.halts, not decision.is_hard))
    breached = [decision for decision in order if decision.breached]
    return breached[0] if breached else decisions[0]


def first_breach(criteria: Sequence[CriterionFunction], reading: Reading) -> Decision:
    """The gravest decision.  Every criterion is asked, since some remember what they were asked."""
    return gravest([criterion(reading) for criterion in criteria])
