"""Criteria on single readings: each compares an uncertainty with a limit and returns a decision.

Every comparison fails closed: a criterion tests ``not (x <= limit)``, never ``x > limit``, because each comparison with NaN is
false.  Atoms that cannot move are left out; if no atom can move, the per-atom criteria pass, since force errors on fixed atoms
do not change the trajectory.

The calibrated criterion, with σ_i = ``atom_std`` and ε_tol a tolerance on the norm of a force error:

    continue while q_frame · max_i σ_i ≤ ε_tol
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from blipcalc.core.prediction import Calibration
from blipcalc.errors import CalibrationError, ConfigurationError
from blipcalc.monitor.decisions import Decision, Reading, worst_first
from blipcalc.settings import number


class Criterion:
    """Base class of criteria with a check of elements or a limit on ``atom_std``; any function of a reading is a criterion too.

    needs_pressure : whether readings must hold the pressure and its error bar
    """

    needs_pressure: ClassVar[bool] = False

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading."""
        raise NotImplementedError

    def check_symbols(self, symbols: Sequence[str]) -> None:
        """Raise :class:`ConfigurationError` for elements without a threshold."""

    def largest_atom_std(self) -> float | None:
        """Return the largest ``atom_std`` that passes, eV/Å; None if there is no single limit."""
        return None


@dataclass(frozen=True)
class NonFinite(Criterion):
    """Breached if positions, energy or forces are not finite, or if there is no prediction or no variance."""

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading."""
        value = math.nan if reading.failure else 0.0
        reason = reading.failure or "positions, energy and forces are finite"
        return Decision(bool(reading.failure), (), value, 0.0, "", reason, reading.step)


@dataclass(frozen=True)
class MaxAtomStd(Criterion):
    """Criterion: largest ``atom_std`` ≤ an uncalibrated threshold.

    threshold : eV/Å, > 0
    """

    threshold: float

    def __post_init__(self) -> None:
        _check_limit("threshold", self.threshold)

    def largest_atom_std(self) -> float:
        """Return the threshold, eV/Å."""
        return float(self.threshold)

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading."""
        return _decision_per_atom(reading, reading.atom_std, np.full(reading.n_atoms, self.threshold), "atom_std")


@dataclass(frozen=True)
class CalibratedTolerance(Criterion):
    """Calibrated criterion: q_frame · max ``atom_std`` ≤ tolerance.

    tolerance : ε_tol, eV/Å, on the norm of the force error of the worst atom
    q_frame : conformal quantile of the frame's maximum of ‖force error‖ / ``atom_std``
    level : of the quantile
    elements : calibrated atomic numbers; any other has NaN for ``atom_std`` and breaches
    """

    tolerance: float
    q_frame: float
    level: float
    elements: frozenset[int]

    def __post_init__(self) -> None:
        _check_limit("tolerance", self.tolerance)

    @classmethod
    def from_calibration(
        cls, calibration: Calibration | None, tolerance: float, level: float = 0.95
    ) -> CalibratedTolerance:
        """Return the criterion with the constants of a calibration.

        raises : CalibrationError without a calibration, or for a level that it does not hold
        """
        if calibration is None:
            raise CalibrationError(
                "tolerance= needs a calibrated calculator, and this one has no calibration: run 'blipcalc calibrate' for "
                "its surface, n_draws and seed, or give threshold=, a plain number on atom_std"
            )
        calibration.halt_limit(tolerance, level)
        return cls(tolerance, calibration.q_frame[level], level, frozenset(calibration.scale))

    def largest_atom_std(self) -> float:
        """Return ε_tol / q_frame, eV/Å."""
        return self.tolerance / self.q_frame

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading."""
        limits = np.full(reading.n_atoms, self.tolerance)
        decision = _decision_per_atom(
            reading, self.q_frame * reading.atom_std, limits, f"force error bound at {self.level:.0%}"
        )
        unknown = sorted({atomic_numbers[s] for s in reading.symbols} - self.elements)
        if not (decision.breached and unknown and math.isnan(decision.value)):
            return decision
        names = ", ".join(chemical_symbols[z] for z in unknown)
        reason = f"{names} was never calibrated, so its atoms have no error bound. {decision.reason}"
        return Decision(True, decision.atoms, decision.value, decision.threshold, decision.unit, reason, reading.step)


@dataclass(frozen=True)
class ElementThresholds(Criterion):
    """Criterion: largest ``atom_std`` of each element ≤ the threshold of that element.

    thresholds : {symbol: eV/Å}; every element of the structure must be named, with ``math.inf`` for one without a limit (NaN
        breaches even then)
    """

    thresholds: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise ConfigurationError("no thresholds given; expected {symbol: eV/Å} with every element of the structure")
        for symbol, limit in self.thresholds.items():
            if symbol not in atomic_numbers:
                raise ConfigurationError(f"threshold for {symbol!r}: expected a chemical symbol")
            _check_limit(f"threshold[{symbol!r}]", limit, infinite=True)

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading; raises :class:`ConfigurationError` for an element without a threshold."""
        self.check_symbols(reading.symbols)
        limits = np.array([self.thresholds[symbol] for symbol in reading.symbols])
        return _decision_per_atom(reading, reading.atom_std, limits, "atom_std")

    def check_symbols(self, symbols: Sequence[str]) -> None:
        """Raise :class:`ConfigurationError` for a structure with an element without a threshold."""
        missing = sorted(set(symbols) - set(self.thresholds))
        if missing:
            raise ConfigurationError(
                f"no threshold for {', '.join(missing)}; name every element, math.inf for one not to be watched"
            )


@dataclass(frozen=True)
class AtomFraction(Criterion):
    """Criterion: share of atoms with ``atom_std`` beyond a threshold ≤ a fraction.

    threshold : eV/Å, > 0
    fraction : 0 ≤ fraction < 1
    """

    threshold: float
    fraction: float

    def __post_init__(self) -> None:
        _check_limit("threshold", self.threshold)
        if not 0 <= number("fraction", self.fraction) < 1:
            raise ConfigurationError(f"fraction={self.fraction}; expected 0 ≤ fraction < 1")

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading."""
        beyond = reading.mask & ~(reading.atom_std <= self.threshold)
        counted = int(reading.mask.sum())
        share = float(beyond.sum() / counted) if counted else 0.0
        reason = f"{int(beyond.sum())} of {counted} atoms have atom_std beyond {self.threshold:g} eV/Å"
        atoms = worst_first(reading.atom_std, beyond)
        return Decision(not (share <= self.fraction), atoms, share, self.fraction, "of the atoms", reason, reading.step)


@dataclass(frozen=True)
class PressureTolerance(Criterion):
    """Criterion: error bar of the pressure ≤ a tolerance for the barostat; a breach is a warning, never a halt.

    tolerance_GPa : > 0
    """

    tolerance_GPa: float
    needs_pressure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_limit("pressure_tolerance_GPa", self.tolerance_GPa)

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading; the error bar is not calibrated, since no stresses are labelled."""
        value = reading.pressure_std_GPa
        reason = (
            f"pressure {reading.pressure_GPa:.3g} ± {value:.3g} GPa (not calibrated), tolerance {self.tolerance_GPa:g}"
        )
        breached = not (value <= self.tolerance_GPa)
        return Decision(breached, (), value, self.tolerance_GPa, "GPa", reason, reading.step, halts=False)


@dataclass(frozen=True)
class EnergyStdPerAtom(Criterion):
    """Criterion: ``energy_std`` / n ≤ a threshold; all atoms count, fixed or not.

    threshold : eV/atom, > 0
    """

    threshold: float

    def __post_init__(self) -> None:
        _check_limit("threshold", self.threshold)

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision on a reading."""
        value = reading.energy_std / reading.n_atoms
        reason = f"energy_std per atom is {value:.4g} eV/atom, limit {self.threshold:g}"
        return Decision(not (value <= self.threshold), (), value, self.threshold, "eV/atom", reason, reading.step)


def _decision_per_atom(reading: Reading, values: np.ndarray, limits: np.ndarray, what: str) -> Decision:
    """Compare (n,) values with (n,) limits, both eV/Å, over the atoms that count; return the decision on the worst excess."""
    if not reading.mask.any():
        return Decision(False, (), 0.0, float(limits.min()), "eV/Å", "no atom can move: nothing to watch", reading.step)
    limits = np.asarray(limits, dtype=np.float64)
    beyond = reading.mask & ~(values <= limits)
    excess = np.where(np.isnan(values), np.nan, values / limits)
    atoms = worst_first(excess, beyond)
    worst = atoms[0] if atoms else worst_first(excess, reading.mask)[0]
    value, limit = float(values[worst]), float(limits[worst])
    reason = f"{what} of atom {worst} ({reading.symbols[worst]}) is {value:.4g} eV/Å, limit {limit:g}"
    return Decision(bool(atoms), atoms, value, limit, "eV/Å", reason, reading.step)


def _check_limit(name: str, value: float, *, infinite: bool = False) -> None:
    number(name, value, above=0.0, infinite=infinite)
