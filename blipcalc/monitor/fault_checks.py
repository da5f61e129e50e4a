"""Check faults without using an uncertainty: atoms too close, a leap, a jump of the kinetic energy; at every step.

| fault check | condition | default |
|---|---|---|
| :class:`TooClose` | distance of each pair ≥ limit of its elements, else a warning; ≥ half of it, else a halt | from data |
| :class:`Leap` | no atom moves further in one step than | 0.5 Å |
| :class:`KineticJump` | kinetic energy changes in one step by at most so many canonical standard deviations | 20 |

A leap or a jump shows that the integration has failed, whatever the potential predicts for the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers, chemical_symbols

from blipcalc.calculators.bayesian import bayesian_of
from blipcalc.core.degrees_of_freedom import DegreesOfFreedom, degrees_of_freedom
from blipcalc.core.domain import pair_name
from blipcalc.core.neighbors import NeighborList
from blipcalc.core.periodic import shortest
from blipcalc.errors import ConfigurationError, StructureError
from blipcalc.monitor.decisions import Decision

#: fraction of the limit on a distance, below which a run is halted
HALF = 0.5
#: Å, skin of the list of pairs: the list is valid until an atom has moved by half of it
SKIN = 0.5

#: function of a structure and the number of the step
FaultCheck = Callable[[Atoms, int], Decision]


def default_fault_checks(calc: Calculator, degrees: DegreesOfFreedom | None = None) -> tuple[FaultCheck, ...]:
    """Return the default fault checks of MD; optimisers have none, since their steps may be long."""
    model = bayesian_of(calc)
    domain = None if model is None else model.domain
    close = () if domain is None else (TooClose(domain.closest, warns=False),)
    return (Leap(), KineticJump(degrees=degrees), *close)


@dataclass(frozen=True)
class TooClose:
    """Fault check that no pair of atoms is closer than the closest pair of its elements in the data.

    closest : {"C-H": Å}, elements in alphabetical order; other pairs are not watched
    warns : warn of a pair below its limit; else only halt for a pair below half of it.  In MD at the state of the data, one
        frame in some hundreds is below a limit
    """

    closest: Mapping[str, float]
    warns: bool = True
    _limits: np.ndarray = field(init=False, repr=False, compare=False)
    _list: NeighborList = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = np.zeros((len(chemical_symbols), len(chemical_symbols)))
        for pair, distance in self.closest.items():
            symbols = pair.split("-")
            if len(symbols) != 2 or symbols != sorted(symbols) or not all(s in atomic_numbers for s in symbols):
                raise ConfigurationError(f"{pair!r}: expected two elements in alphabetical order, such as 'C-H'")
            if not (distance > 0 and math.isfinite(distance)):
                raise ConfigurationError(f"{pair}: expected a distance > 0, got {distance} Å")
            a, b = (atomic_numbers[symbol] for symbol in symbols)
            limits[a, b] = limits[b, a] = distance if self.warns else HALF * distance
        object.__setattr__(self, "_limits", limits)
        object.__setattr__(self, "_list", NeighborList(max(float(limits.max()), SKIN), SKIN))

    def __call__(self, atoms: Atoms, step: int) -> Decision:
        """Return the decision on the pair furthest below its limit."""
        if not np.isfinite(atoms.positions).all():
            return Decision(True, (), math.nan, 0.0, "Å", "positions are not finite", step)
        try:
            (i, j), shifts = self._list.update(atoms.positions, atoms.cell.array, atoms.pbc)
        except StructureError as error:
            return Decision(True, (), math.nan, 0.0, "Å", str(error), step)
        distances = np.linalg.norm(atoms.positions[i] - atoms.positions[j] + shifts @ atoms.cell.array, axis=1)
        limits = self._limits[atoms.numbers[i], atoms.numbers[j]]
        below = np.flatnonzero((distances < limits) & (i <= j))
        if not below.size:
            return Decision(False, (), 0.0, 0.0, "Å", "no pair is closer than in the data", step)
        k = below[np.argmin(distances[below] / limits[below])]
        first, second, distance = int(i[k]), int(j[k]), float(distances[k])
        pair = pair_name(atoms.numbers[first], atoms.numbers[second])
        limit = self.closest[pair]
        reason = (
            f"atoms {first} and {second} ({pair}) are {distance:.3f} Å apart, in the data never less than {limit:.3f}"
        )
        return Decision(True, (first, second), distance, limit, "Å", reason, step, halts=distance < HALF * limit)


@dataclass
class Leap:
    """Fault check that no atom moves further in one step than ``largest``, Å."""

    largest: float = 0.5
    _last: tuple[int, np.ndarray] | None = field(default=None, init=False, repr=False)

    def __call__(self, atoms: Atoms, step: int) -> Decision:
        """Return the decision; without positions of the previous step it is passed."""
        last, self._last = self._last, (step, atoms.positions.copy())
        if last is None or last[0] != step - 1 or last[1].shape != atoms.positions.shape:
            return Decision(False, (), 0.0, self.largest, "Å", "no step to compare", step)
        shift = atoms.positions - last[1]
        moved = np.linalg.norm(shift, axis=1)
        if atoms.pbc.any() and np.isfinite(shift).all() and moved.max() > self.largest:
            # wrapping an atom into the cell does not move it
            moved = np.linalg.norm(shortest(shift, atoms.cell, atoms.pbc), axis=1)
        atom = int(np.argmax(np.where(np.isnan(moved), np.inf, moved)))
        value = float(moved[atom])
        reason = f"atom {atom} ({atoms.symbols[atom]}) moved by {value:.3g} Å in one step, limit {self.largest:g}"
        breached = not (value <= self.largest)
        return Decision(breached, (atom,) if breached else (), value, self.largest, "Å", reason, step)


@dataclass
class KineticJump:
    """Fault check that the kinetic energy K changes in one step by at most ``deviations`` canonical standard deviations.

    σ_K = k T √(f / 2),   T of the step before, or ``temperature_K`` if that is higher, f degrees of freedom

    degrees : of freedom of the motion; None counts 3N minus those removed by constraints
    """

    deviations: float = 20.0
    temperature_K: float = 300.0
    degrees: DegreesOfFreedom | None = field(default=None, repr=False)
    _last: tuple[int, float] | None = field(default=None, init=False, repr=False)

    def __call__(self, atoms: Atoms, step: int) -> Decision:
        """Return the decision; without momenta of the previous step it is passed."""
        if self.degrees is None:
            self.degrees = degrees_of_freedom(atoms, random_momenta=True)
        last, energy = self._last, self.degrees.kinetic_energy(atoms)
        self._last = (step, energy)
        freedom = self.degrees.number
        if last is None or last[0] != step - 1 or freedom < 1:
            return Decision(False, (), 0.0, self.deviations, "σ", "no step to compare", step)
        kt = max(2.0 * last[1] / freedom, units.kB * self.temperature_K)
        value = abs(energy - last[1]) / (kt * math.sqrt(freedom / 2.0))
        reason = f"the kinetic energy changed by {energy - last[1]:.3g} eV in one step, {value:.3g} of its deviations"
        return Decision(not (value <= self.deviations), (), value, self.deviations, "σ", reason, step)
