"""When is a prediction too uncertain?  Pure rules: a reading of one structure -> a verdict.

Every comparison fails closed: a rule asks ``not (x <= limit)``, never ``x > limit``, because each comparison with NaN is
false.  Atoms that cannot move are left out; where no atom can, the per-atom rules have nothing to watch and pass, since an
error of a force that moves nothing does no harm.

The calibrated halt rule, with σ_i = ``atom_std`` and ε_tol a tolerance on the norm of a force error:

    go on while q_frame · max_i σ_i ≤ ε_tol
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from blipcalc.core.prediction import Calibration
from blipcalc.errors import CalibrationError, ConfigurationError
from blipcalc.settings import number


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
class Verdict:
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


Trigger = Callable[[Reading], Verdict]


def worst_first(values: np.ndarray, chosen: np.ndarray) -> tuple[int, ...]:
    """Indices where ``chosen``, by falling value, NaN before all."""
    indices = np.flatnonzero(chosen)
    keys = np.where(np.isnan(values[indices]), np.inf, values[indices])
    order = np.lexsort((indices, -keys, ~np.isnan(values[indices])))
    return tuple(int(i) for i in indices[order])


def gravest(verdicts: Sequence[Verdict]) -> Verdict:
    """The first that is breached, one that halts before one that warns, a fault before a rule; where none is, the first."""
    order = sorted(verdicts, key=lambda verdict: (not verdict.halts, not verdict.is_hard))
    breached = [verdict for verdict in order if verdict.breached]
    return breached[0] if breached else verdicts[0]


def first_breach(triggers: Sequence[Trigger], reading: Reading) -> Verdict:
    """The gravest verdict.  Every trigger is asked, since some remember what they were asked."""
    return gravest([trigger(reading) for trigger in triggers])


@dataclass(frozen=True)
class NonFinite:
    """Breached where positions, energy or forces are not finite, or where there is no prediction or no variance at all."""

    def __call__(self, reading: Reading) -> Verdict:
        """The verdict."""
        value = math.nan if reading.failure else 0.0
        reason = reading.failure or "positions, energy and forces are finite"
        return Verdict(bool(reading.failure), (), value, 0.0, "", reason, reading.step)


@dataclass(frozen=True)
class MaxAtomStd:
    """Largest ``atom_std`` ≤ a plain threshold.

    threshold : eV/Å, > 0
    """

    threshold: float

    def __post_init__(self) -> None:
        _check_limit("threshold", self.threshold)

    def __call__(self, reading: Reading) -> Verdict:
        """The verdict."""
        return _verdict_per_atom(reading, reading.atom_std, np.full(reading.n_atoms, self.threshold), "atom_std")


@dataclass(frozen=True)
class CalibratedTolerance:
    """The calibrated halt rule: q_frame · max ``atom_std`` ≤ tolerance.

    tolerance : ε_tol, eV/Å, on the norm of the force error of the worst atom
    q_frame : conformal quantile of the frame's maximum of ‖force error‖ / ``atom_std``
    level : of the quantile
    elements : atomic numbers that were calibrated; any other has NaN for ``atom_std`` and breaches
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
        """The rule with the constants of a calibration; raises :class:`CalibrationError` without one, or for a level
        that it does not hold.
        """
        if calibration is None:
            raise CalibrationError(
                "tolerance= needs a calibrated calculator, and this one has no calibration: run 'blipcalc calibrate' for "
                "its surface, n_draws and seed, or give threshold=, a plain number on atom_std"
            )
        calibration.halt_limit(tolerance, level)
        return cls(tolerance, calibration.q_frame[level], level, frozenset(calibration.scale))

    @property
    def limit(self) -> float:
        """The largest ``atom_std`` that passes, eV/Å."""
        return self.tolerance / self.q_frame

    def __call__(self, reading: Reading) -> Verdict:
        """The verdict."""
        limits = np.full(reading.n_atoms, self.tolerance)
        verdict = _verdict_per_atom(
            reading, self.q_frame * reading.atom_std, limits, f"force error bound at {self.level:.0%}"
        )
        unknown = sorted({atomic_numbers[s] for s in reading.symbols} - self.elements)
        if not (verdict.breached and unknown and math.isnan(verdict.value)):
            return verdict
        names = ", ".join(chemical_symbols[z] for z in unknown)
        reason = f"{names} was never calibrated, so its atoms have no error bound. {verdict.reason}"
        return Verdict(True, verdict.atoms, verdict.value, verdict.threshold, verdict.unit, reason, reading.step)


@dataclass(frozen=True)
class ElementThresholds:
    """Largest ``atom_std`` of each element ≤ a threshold of its own.

    thresholds : {symbol: eV/Å}; every element of the structure must be named, with ``math.inf`` for one that may be as
        uncertain as it likes (NaN breaches even then)
    """

    thresholds: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise ConfigurationError("no thresholds given; expected {symbol: eV/Å} with every element of the structure")
        for symbol, limit in self.thresholds.items():
            if symbol not in atomic_numbers:
                raise ConfigurationError(f"threshold for {symbol!r}: expected a chemical symbol")
            _check_limit(f"threshold[{symbol!r}]", limit, infinite=True)

    def __call__(self, reading: Reading) -> Verdict:
        """The verdict; raises :class:`ConfigurationError` for an element without a threshold."""
        self.check_complete(reading.symbols)
        limits = np.array([self.thresholds[symbol] for symbol in reading.symbols])
        return _verdict_per_atom(reading, reading.atom_std, limits, "atom_std")

    def check_complete(self, symbols: Sequence[str]) -> None:
        """Refuse a structure with an element that has no threshold, with :class:`ConfigurationError`."""
        missing = sorted(set(symbols) - set(self.thresholds))
        if missing:
            raise ConfigurationError(
                f"no threshold for {', '.join(missing)}; name every element, math.inf for one not to be watched"
            )


@dataclass(frozen=True)
class AtomFraction:
    """Share of atoms whose ``atom_std`` is beyond a threshold ≤ a fraction.

    threshold : eV/Å, > 0
    fraction : 0 ≤ fraction < 1
    """

    threshold: float
    fraction: float

    def __post_init__(self) -> None:
        _check_limit("threshold", self.threshold)
        if not 0 <= number("fraction", self.fraction) < 1:
            raise ConfigurationError(f"fraction={self.fraction}; expected 0 ≤ fraction < 1")

    def __call__(self, reading: Reading) -> Verdict:
        """The verdict."""
        beyond = reading.mask & ~(reading.atom_std <= self.threshold)
        counted = int(reading.mask.sum())
        share = float(beyond.sum() / counted) if counted else 0.0
        reason = f"{int(beyond.sum())} of {counted} atoms have atom_std beyond {self.threshold:g} eV/Å"
        atoms = worst_first(reading.atom_std, beyond)
        return Verdict(not (share <= self.fraction), atoms, share, self.fraction, "of the atoms", reason, reading.step)


@dataclass(frozen=True)
class PressureTolerance:
    """The error bar of the pressure ≤ what the barostat may be off by; a warning, never a halt.

    tolerance_GPa : > 0
    """

    tolerance_GPa: float

    def __post_init__(self) -> None:
        _check_limit("pressure_tolerance_GPa", self.tolerance_GPa)

    def __call__(self, reading: Reading) -> Verdict:
        """The verdict; it is not calibrated where no stresses are labelled."""
        value = reading.pressure_std_GPa
        reason = (
            f"pressure {reading.pressure_GPa:.3g} ± {value:.3g} GPa (not calibrated), tolerance {self.tolerance_GPa:g}"
        )
        breached = not (value <= self.tolerance_GPa)
        return Verdict(breached, (), value, self.tolerance_GPa, "GPa", reason, reading.step, halts=False)


@dataclass(frozen=True)
class EnergyStdPerAtom:
    """``energy_std`` / n ≤ a threshold; all atoms count, fixed or not.

    threshold : eV/atom, > 0
    """

    threshold: float

    def __post_init__(self) -> None:
        _check_limit("threshold", self.threshold)

    def __call__(self, reading: Reading) -> Verdict:
        """The verdict."""
        value = reading.energy_std / reading.n_atoms
        reason = f"energy_std per atom is {value:.4g} eV/atom, limit {self.threshold:g}"
        return Verdict(not (value <= self.threshold), (), value, self.threshold, "eV/atom", reason, reading.step)


def _verdict_per_atom(reading: Reading, values: np.ndarray, limits: np.ndarray, what: str) -> Verdict:
    """Compare (n,) values with (n,) limits, both eV/Å, over the atoms that count; reported is the worst excess."""
    if not reading.mask.any():
        return Verdict(False, (), 0.0, float(limits.min()), "eV/Å", "no atom can move: nothing to watch", reading.step)
    limits = np.asarray(limits, dtype=np.float64)
    beyond = reading.mask & ~(values <= limits)
    excess = np.where(np.isnan(values), np.nan, values / limits)
    atoms = worst_first(excess, beyond)
    worst = atoms[0] if atoms else worst_first(excess, reading.mask)[0]
    value, limit = float(values[worst]), float(limits[worst])
    reason = f"{what} of atom {worst} ({reading.symbols[worst]}) is {value:.4g} eV/Å, limit {limit:g}"
    return Verdict(bool(atoms), atoms, value, limit, "eV/Å", reason, reading.step)


def _check_limit(name: str, value: float, *, infinite: bool = False) -> None:
    number(name, value, above=0.0, infinite=infinite)
