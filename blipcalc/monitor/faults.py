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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms, units
from ase.data import atomic_numbers, chemical_symbols
from ase.geometry import find_mic

from blipcalc.core.neighbors import search
from blipcalc.errors import ConfigurationError
from blipcalc.monitor.triggers import Verdict

#: of the limit on a distance: below it a run is halted
HALF = 0.5
#: quantile of the closest distances of the frames
CLOSEST = 0.001

#: what every fault is: a rule on a structure and the number of the step
Fault = Callable[[Atoms, int], Verdict]


@dataclass(frozen=True)
class TooClose:
    """No pair of atoms closer than data of its elements ever were.

    closest : {"C-H": Å}, elements in alphabetical order; pairs that are not there are not watched
    """

    closest: Mapping[str, float]

    def __post_init__(self) -> None:
        for pair, distance in self.closest.items():
            symbols = pair.split("-")
            if len(symbols) != 2 or symbols != sorted(symbols) or not all(s in atomic_numbers for s in symbols):
                raise ConfigurationError(f"{pair!r}: expected two elements in alphabetical order, such as 'C-H'")
            if not (distance > 0 and math.isfinite(distance)):
                raise ConfigurationError(f"{pair}: expected a distance > 0, got {distance} Å")

    def __call__(self, atoms: Atoms, step: int) -> Verdict:
        """The verdict on the pair that is furthest below its limit."""
        if not np.isfinite(atoms.positions).all():
            return Verdict(True, (), math.nan, 0.0, "Å", "positions are not finite", step)
        worst, found = 1.0, None
        for i, j, pair, distance in _pairs(atoms, max(self.closest.values(), default=0.0)):
            limit = self.closest.get(pair, 0.0)
            if distance < worst * limit:
                worst, found = distance / limit, (i, j, pair, distance, limit)
        if found is None:
            return Verdict(False, (), 0.0, 0.0, "Å", "no pair is closer than in the data", step)
        i, j, pair, distance, limit = found
        reason = f"atoms {i} and {j} ({pair}) are {distance:.3f} Å apart, in the data never less than {limit:.3f}"
        return Verdict(True, (i, j), distance, limit, "Å", reason, step, halts=worst < HALF)


@dataclass
class Leap:
    """No atom moves further in one step than ``largest``, Å."""

    largest: float = 0.5
    _last: tuple[int, np.ndarray] | None = field(default=None, init=False, repr=False)

    def __call__(self, atoms: Atoms, step: int) -> Verdict:
        """The verdict; positions of another step than the one before say nothing."""
        last, self._last = self._last, (step, atoms.positions.copy())
        if last is None or last[0] != step - 1 or last[1].shape != atoms.positions.shape:
            return Verdict(False, (), 0.0, self.largest, "Å", "no step to compare", step)
        shift = atoms.positions - last[1]
        moved = np.linalg.norm(shift, axis=1)
        if atoms.pbc.any() and np.isfinite(shift).all() and moved.max() > self.largest:
            moved = find_mic(shift, atoms.cell, atoms.pbc)[1]  # who wraps atoms into the cell moves none
        atom = int(np.argmax(np.where(np.isnan(moved), np.inf, moved)))
        value = float(moved[atom])
        reason = f"atom {atom} ({atoms.symbols[atom]}) moved by {value:.3g} Å in one step, limit {self.largest:g}"
        breached = not (value <= self.largest)
        return Verdict(breached, (atom,) if breached else (), value, self.largest, "Å", reason, step)


@dataclass
class KineticJump:
    """The kinetic energy K changes in one step by no more than so many of its canonical standard deviations.

    σ_K = k T √(f / 2),   T of the step before, or ``temperature_K`` where that is higher, f degrees of freedom
    """

    deviations: float = 20.0
    temperature_K: float = 300.0
    _last: tuple[int, float] | None = field(default=None, init=False, repr=False)

    def __call__(self, atoms: Atoms, step: int) -> Verdict:
        """The verdict; momenta of another step than the one before say nothing."""
        last, energy = self._last, float(atoms.get_kinetic_energy())
        self._last = (step, energy)
        freedom = atoms.get_number_of_degrees_of_freedom()
        if last is None or last[0] != step - 1 or freedom < 1:
            return Verdict(False, (), 0.0, self.deviations, "σ", "no step to compare", step)
        kt = max(2.0 * last[1] / freedom, units.kB * self.temperature_K)
        value = abs(energy - last[1]) / (kt * math.sqrt(freedom / 2.0))
        reason = f"the kinetic energy changed by {energy - last[1]:.3g} eV in one step, {value:.3g} of its deviations"
        return Verdict(not (value <= self.deviations), (), value, self.deviations, "σ", reason, step)


def closest_distances(frames: Sequence[Atoms], cutoff: float = 3.0) -> dict[str, float]:
    """{"C-H": Å} 0.1 % quantile over frames of the shortest distance of each pair of elements; none beyond the cutoff (Å)."""
    shortest: dict[str, list[float]] = {}
    for atoms in frames:
        own: dict[str, float] = {}
        for _, _, pair, distance in _pairs(atoms, cutoff):
            own[pair] = min(distance, own.get(pair, math.inf))
        for pair, distance in own.items():
            shortest.setdefault(pair, []).append(distance)
    return {pair: float(np.quantile(values, CLOSEST)) for pair, values in sorted(shortest.items())}


def _pairs(atoms: Atoms, cutoff: float) -> list[tuple[int, int, str, float]]:
    """(i, j, "C-H", Å) of all pairs within a cutoff, each once."""
    if not cutoff > 0:
        return []
    cell, positions = atoms.cell.array, atoms.positions
    (i, j), shifts = search(positions, cell, atoms.pbc, cutoff)
    d = np.linalg.norm(positions[i] - positions[j] + shifts @ cell, axis=1)
    once = (i <= j) & (d < cutoff)
    names = [chemical_symbols[z] for z in atoms.numbers]
    return [
        (int(a), int(b), "-".join(sorted((names[a], names[b]))), float(x))
        for a, b, x in zip(i[once], j[once], d[once], strict=True)
    ]
