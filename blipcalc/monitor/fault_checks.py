"""Faults that no uncertainty is needed to see: atoms too close, a leap, a jump of the kinetic energy.  Asked at every step.

| fault | rule | default |
|---|---|---|
| :class:`TooClose` | distance of each pair of elements ≥ limit, else a warning; ≥ half of it, else a halt | from data |
| :class:`Leap` | no atom moves further in one step than | 0.5 Å |
| :class:`KineticJump` | the kinetic energy changes in one step by no more than so many of its canonical deviations | 20 |

A frame with a leap or a jump is one that an integrator has lost; the potential may say of it what it likes.
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

#: of the limit on a distance: below it a run is halted
HALF = 0.5
#: Å, of the list of pairs: it lasts until an atom has moved by half of it
SKIN = 0.5

#: what every fault is: a rule on a structure and the number of the step
FaultCheck = Callable[[Atoms, int], Decision]


def default_fault_checks(calc: Calculator, degrees: DegreesOfFreedom | None = None) -> tuple[FaultCheck, ...]:
    """What is asked of MD where nobody says otherwise; optimisers may leap."""
    model = bayesian_of(calc)
    domain = None if model is None else model.domain
    close = () if domain is None else (TooClose(domain.closest, warns=False),)
    return (Leap(), KineticJump(degrees=degrees), *close)


@dataclass(frozen=True)
class TooClose:
    """No pair of atoms closer than data of its elements ever were.

    closest : {"C-H": Å}, elements in alphabetical order; pairs that are not there are not watched
    warns : say so of a pair below its limit; else only halt for one below half of it.  In MD of the state that the data are
        of, one frame in some hundreds is below a limit
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
        """The decision on the pair that is furthest below its limit."""
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
    """No atom moves further in one step than ``largest``, Å."""

    largest: float = 0.5
    _last: tuple[int, np.ndarray] | None = field(default=None, init=False, repr=False)

    def __call__(self, atoms: Atoms, step: int) -> Decision:
        """The decision; positions of another step than the one before say nothing."""
        last, self._last = self._last, (step, atoms.positions.copy())
        if last is None or last[0] != step - 1 or last[1].shape != atoms.positions.shape:
            return Decision(False, (), 0.0, self.largest, "Å", "no step to compare", step)
        shift = atoms.positions - last[1]
        moved = np.linalg.norm(shift, axis=1)
        if atoms.pbc.any() and np.isfinite(shift).all() and moved.max() > self.largest:
            # who wraps atoms into the cell moves none
            moved = np.linalg.norm(shortest(shift, atoms.cell, atoms.pbc), axis=1)
        atom = int(np.argmax(np.where(np.isnan(moved), np.inf, moved)))
        value = float(moved[atom])
        reason = f"atom {atom} ({atoms.symbols[atom]}) moved by {value:.3g} Å in one step, limit {self.largest:g}"
        breached = not (value <= self.largest)
        return Decision(breached, (atom,) if breached else (), value, self.largest, "Å", reason, step)


@dataclass
class KineticJump:
    """The kinetic energy K changes in one step by no more than so many of its canonical standard deviations.

    σ_K = k T √(f / 2),   T of the step before, or ``temperature_K`` where that is higher, f degrees of freedom

    degrees : of freedom that move; None counts 3N less what constraints hold
    """

    deviations: float = 20.0
    temperature_K: float = 300.0
    degrees: DegreesOfFreedom | None = field(default=None, repr=False)
    _last: tuple[int, float] | None = field(default=None, init=False, repr=False)

    def __call__(self, atoms: Atoms, step: int) -> Decision:
        """The decision; momenta of another step than the one before say nothing."""
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
