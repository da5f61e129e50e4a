"""Estimate: a derived quantity, such as a bond length, a barrier or a frequency, with its error bar from K draws.

Every quantity is computed on the driving potential and, in the same way, on each of the K draws.  Differences of two quantities
are formed draw by draw: common errors cancel, which a sum of variances would count twice.

    std = c · sd_k(f_k),   bias = mean_k(f_k) - f,   interval = f ± t_{K-1} √(1 + 1/K) · std

| symbol | variable | meaning |
|---|---|---|
| f | ``value`` | on the driving potential |
| f_k | ``draws`` | on draw k |
| c | ``calibration_factor`` | calibration factor on the spread; 1: posterior values |
| t | | Student's quantile, since the spread of K draws is itself uncertain |

The interval is that of one more draw, since the truth is regarded as one (Geisser 1993, chapter 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.stats import t as student
from typing_extensions import TypeAliasType

from blipcalc.errors import CalibrationError, ConfigurationError, DataError, DrawsError
from blipcalc.files.json_file import finite
from blipcalc.settings import NotNegative, Settings, checked, number
from blipcalc.stats.conformal import conformal_quantile
from blipcalc.stats.spread import spread

Array = NDArray[np.float64]
#: least number of labelled values of a quantity for a conformal interval
LEAST = 20
#: relative to a value; a smaller error bar is rounding
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A number or an array with its error bar.

    value : of any shape, in ``unit``, on the driving potential
    draws : (K, *shape) on each draw, K ≥ 2
    unit : such as ``"eV"``
    calibration_factor : c ≥ 0, on the spread; 1 for posterior values; NaN, and NaN error bars, where an element was never
        calibrated
    calibrated : whether c comes from a calibration, which is one of forces or energies, not of this quantity
    of_differences : c of differences of such quantities; None for the same c.  Draws of a total energy share an offset that
        cancels in differences
    note : method, where the name of the quantity does not tell it
    source : identity of the draws; estimates from different draws cannot be combined

    raises : DrawsError for fewer than two draws, or draws of another shape than the value; ConfigurationError for an
        invalid calibration factor
    """

    value: Array
    draws: Array
    unit: str = ""
    calibration_factor: float = 1.0
    calibrated: bool = False
    note: str = ""
    source: str = ""
    of_differences: float | None = None

    def __post_init__(self) -> None:
        value, draws = np.asarray(self.value, dtype=np.float64), np.asarray(self.draws, dtype=np.float64)
        if draws.ndim < 1 or len(draws) < 2 or draws.shape[1:] != value.shape:
            raise DrawsError(
                f"expected two draws or more of the shape {value.shape} of the value, got an array {draws.shape}"
            )
        if not (isinstance(self.calibration_factor, float) and np.isnan(self.calibration_factor)):
            number("calibration_factor", self.calibration_factor, above=-1e-300)
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "draws", draws)

    @property
    def n_draws(self) -> int:
        """Number of draws K."""
        return len(self.draws)

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        return spread(self.draws)

    @property
    def std(self) -> Array:
        """Error bar, with the shape of the value."""
        return self.calibration_factor * np.sqrt(self._moments[1])

    @property
    def bias(self) -> Array:
        """Mean of the draws less the value; nonzero where the quantity is a curved function of symmetric draws."""
        return self._moments[0] - self.value

    def half_width(self, level: float = 0.95) -> Array:
        """Return half the width of the interval that contains the truth with the given probability."""
        if not 0 < number("level", level) < 1:
            raise ConfigurationError(f"level={level}; expected a number between 0 and 1")
        quantile = student.ppf(0.5 + level / 2, self.n_draws - 1)
        return float(quantile) * np.sqrt(1 + 1 / self.n_draws) * self.std

    def bounds(self, quantile: float) -> tuple[Array, Array]:
        """Return the limits of a conformal interval, f ± q · std with q of :func:`conformal_factor`."""
        half = number("quantile", quantile, above=-1e-300) * self.std
        return self.value - half, self.value + half

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Return the limits of the interval that contains the truth with the given probability."""
        half = self.half_width(level)
        return self.value - half, self.value + half

    def holds(self, truth: ArrayLike, level: float = 0.95) -> NDArray[np.bool_]:
        """Return whether a true value lies in the interval."""
        return np.abs(np.asarray(truth, dtype=np.float64) - self.value) <= self.half_width(level)

    def map(self, function: Callable[[Array], ArrayLike], unit: str | None = None, note: str | None = None) -> Estimate:
        """Apply a function to the value and to every draw."""
        return replace(
            self,
            value=np.asarray(function(self.value)),
            draws=np.stack([np.asarray(function(draw)) for draw in self.draws]),
            unit=self.unit if unit is None else unit,
            note=self.note if note is None else note,
        )

    def __getitem__(self, index: Any) -> Estimate:
        """Return the estimate of a part of the array."""
        return self.map(lambda values: values[index])

    def relative(self) -> Estimate:
        """Return the estimate with the calibration factor of differences."""
        if self.of_differences is None:
            return self
        return replace(self, calibration_factor=self.of_differences, of_differences=None)

    def widened(self) -> Estimate:
        """Return the estimate with its calibration factor applied to the draws: deviations from their mean times c."""
        mean = self._moments[0]
        return replace(self, draws=mean + self.calibration_factor * (self.draws - mean), calibration_factor=1.0)

    def __sub__(self, other: Estimate | float) -> Estimate:
        return self._with(other, np.subtract, "-")

    def __rsub__(self, other: float) -> Estimate:
        return -self + other

    def __add__(self, other: Estimate | float) -> Estimate:
        return self._with(other, np.add, "+")

    def __mul__(self, factor: float) -> Estimate:
        """Multiply by an exact number."""
        return self.map(lambda values: values * factor)

    __rmul__, __radd__ = __mul__, __add__

    def __neg__(self) -> Estimate:
        return self * -1.0

    def __truediv__(self, divisor: Estimate | float) -> Estimate:
        if not isinstance(divisor, Estimate):
            return self * (1.0 / divisor)
        unit = "" if self.unit == divisor.unit else f"{self.unit}/({divisor.unit})"
        return replace(replace(self, unit=divisor.unit)._with(divisor, np.divide, "/"), unit=unit)

    def _with(self, other: Estimate | float, operation: Callable[[Any, Any], Array], sign: str) -> Estimate:
        if not isinstance(other, Estimate):
            return self.map(lambda values: operation(values, other))
        ours, theirs = (self.unit, self.n_draws, self.source), (other.unit, other.n_draws, other.source)
        if ours != theirs:
            raise DrawsError(
                f"draws are combined one by one: expected the same unit, K and draws, got {ours} and {theirs}"
            )
        one, two = (self.relative(), other.relative()) if operation is np.subtract else (self, other)
        # of two molecules, or of energies and forces: each gets its own calibration factor
        if one.calibration_factor != two.calibration_factor:
            one, two = one.widened(), two.widened()
        return replace(
            one,
            value=operation(one.value, two.value),
            draws=operation(one.draws, two.draws),
            calibrated=self.calibrated and other.calibrated,
            note=f"{self.note} {sign} {other.note}"
            if self.note and other.note and self.note != other.note
            else self.note,
        )

    def __repr__(self) -> str:
        kind = "calibrated" if self.calibrated else "raw"
        what = f"{self.value.shape} values, {self.unit}" if self.value.ndim else str(self)
        return f"Estimate({what}; K = {self.n_draws}, {kind}{f'; {self.note}' if self.note else ''})"

    def __str__(self) -> str:
        if self.value.ndim:
            return f"Estimate of {self.value.size} values, {self.unit}, K = {self.n_draws}"
        return f"{with_error(float(self.value), float(self.std))} {self.unit}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return {
            "value": self.value.tolist(),
            "std": self.std.tolist(),
            "bias": self.bias.tolist(),
            "draws": self.draws.tolist(),
            "unit": self.unit,
            "widening": self.calibration_factor,
            "calibrated": self.calibrated,
            "note": self.note,
            "source": self.source,
            **({} if self.of_differences is None else {"of_differences": self.of_differences}),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Estimate:
        """Return the estimate of :meth:`to_dict`, from memory or a file, where null stands for NaN.

        raises : DataError for anything but such a dictionary, DrawsError for draws that do not fit the value
        """
        said = checked(StoredEstimate, finite(stored), "no estimate")
        of_differences = said.of_differences
        if of_differences is None and "of_differences" in said.model_fields_set:
            of_differences = math.nan
        return cls(
            _array("value", said.value),
            _array("draws", said.draws),
            unit=said.unit,
            calibration_factor=math.nan if said.widening is None else said.widening,
            calibrated=said.calibrated,
            note=said.note,
            source=said.source,
            of_differences=of_differences,
        )


def _array(name: str, said: object) -> Array:
    try:
        return np.array(said, dtype=np.float64)
    except ValueError as error:
        raise DataError(f"no estimate: {name}: {error}; expected numbers, or lists of as many each") from None


#: array in JSON; null for a number that is not finite
Nested = TypeAliasType("Nested", "float | list[Nested] | None")


class StoredEstimate(Settings):
    """An :class:`Estimate` as JSON; std and bias follow from the draws."""

    value: Nested
    draws: list[Nested] = Field(min_length=2)
    unit: str = ""
    widening: NotNegative | None = 1.0
    calibrated: bool = False
    note: str = ""
    source: str = ""
    of_differences: NotNegative | None = None
    std: Nested = None
    bias: Nested = None


def conformal_factor(estimates: Sequence[Estimate], truths: ArrayLike, level: float = 0.95) -> float:
    """Return q such that f ± q · std contains the truth with the given probability, from labelled values of the quantity itself.

    q is the conformal quantile of |f - truth| / std over values exchangeable with the new one; with fewer than :data:`LEAST` a
    quantity has no calibrated interval, even for calibrated forces.

    estimates : of single numbers; truths : (n,) in their unit
    raises : CalibrationError for fewer than 20 values, or an error bar that is zero or not finite
    source : Vovk, Gammerman, Shafer 2005; Lei et al. 2018, doi:10.1080/01621459.2017.1307116
    """
    values, stds = (np.array([getattr(one, name) for one in estimates], dtype=float) for name in ("value", "std"))
    errors = np.abs(np.asarray(truths, dtype=np.float64) - values)
    if errors.ndim != 1 or len(errors) < LEAST:
        raise CalibrationError(
            f"uncalibrated: {errors.size} labelled values of this quantity; {LEAST} single ones make an interval of its own"
        )
    if not (stds > 0).all() or not np.isfinite(stds).all():
        raise CalibrationError(f"error bars of {(~(stds > 0)).sum()} of {len(stds)} values are zero or not finite")
    return conformal_quantile(errors / stds, level)


def with_error(value: float, std: float) -> str:
    """Return ``1.0954 ± 0.0012``: the error bar with two digits, the value with as many decimals."""
    if not (np.isfinite(value) and np.isfinite(std)) or std <= ROUNDING * abs(value) or std == 0:
        return f"{value:.6g} ± {std:.2g}"
    decimals = max(0, 1 - int(np.floor(np.log10(std))))
    return f"{value:.{decimals}f} ± {std:.{decimals}f}"
