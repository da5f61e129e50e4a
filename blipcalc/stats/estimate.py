"""A derived quantity with its error bar: what K surfaces say of a bond length, a barrier, a frequency.

Every quantity is worked out on the surface that drives and, in the same way, on each of the K draws.  Differences of two
quantities are formed draw by draw: errors that both share cancel, which adding variances would count twice.

    std = c · sd_k(f_k),   bias = mean_k(f_k) - f,   interval = f ± t_{K-1} √(1 + 1/K) · std

| symbol | variable | meaning |
|---|---|---|
| f | ``value`` | on the surface that drives |
| f_k | ``draws`` | on draw k |
| c | ``calibration_factor`` | what a calibration makes of a spread, wider or narrower; 1: posterior values |
| t | | Student's quantile: of K draws the spread itself is uncertain |

The interval is that of one more draw, for the truth is held to be one (Geisser 1993, chapter 2).
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
#: labelled values of a quantity that an interval of its own takes
LEAST = 20
#: of a value, below which its error bar is rounding
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A number or an array with its error bar.

    value : of any shape, in ``unit``, on the surface that drives
    draws : (K, *shape) on each draw, K ≥ 2
    unit : such as ``"eV"``
    calibration_factor : c ≥ 0, on the spread; 1 for posterior values; NaN, and error bars with it, where an element was never
        calibrated
    calibrated : whether c comes from a calibration, of forces or energies: none of them is one of this very quantity
    of_differences : c of differences of such quantities, where that is another; None: it is the same.  Draws of a total energy
        share an offset that a difference does not have
    note : how it was come by, where that is not clear from its name
    source : which draws these are; those of other sources are not combined with them

    raises : DrawsError for fewer than two draws, or draws of another shape than the value; ConfigurationError for a
        calibration factor that is none
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
        """K."""
        return len(self.draws)

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        return spread(self.draws)

    @property
    def std(self) -> Array:
        """Error bar, of the shape of the value."""
        return self.calibration_factor * np.sqrt(self._moments[1])

    @property
    def bias(self) -> Array:
        """How far the mean of the draws lies from the value, which a curved quantity makes of symmetric draws."""
        return self._moments[0] - self.value

    def half_width(self, level: float = 0.95) -> Array:
        """Of the interval that holds the truth with that probability."""
        if not 0 < number("level", level) < 1:
            raise ConfigurationError(f"level={level}; expected a number between 0 and 1")
        quantile = student.ppf(0.5 + level / 2, self.n_draws - 1)
        return float(quantile) * np.sqrt(1 + 1 / self.n_draws) * self.std

    def bounds(self, quantile: float) -> tuple[Array, Array]:
        """Ends of a conformal interval, f ± q · std with q of :func:`conformal_factor`."""
        half = number("quantile", quantile, above=-1e-300) * self.std
        return self.value - half, self.value + half

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Its ends."""
        half = self.half_width(level)
        return self.value - half, self.value + half

    def holds(self, truth: ArrayLike, level: float = 0.95) -> NDArray[np.bool_]:
        """Whether a true value lies inside."""
        return np.abs(np.asarray(truth, dtype=np.float64) - self.value) <= self.half_width(level)

    def map(self, function: Callable[[Array], ArrayLike], unit: str | None = None, note: str | None = None) -> Estimate:
        """The same function of the value and of every draw."""
        return replace(
            self,
            value=np.asarray(function(self.value)),
            draws=np.stack([np.asarray(function(draw)) for draw in self.draws]),
            unit=self.unit if unit is None else unit,
            note=self.note if note is None else note,
        )

    def __getitem__(self, index: Any) -> Estimate:
        """A part of an array."""
        return self.map(lambda values: values[index])

    def relative(self) -> Estimate:
        """The same as a quantity that is a difference of such."""
        if self.of_differences is None:
            return self
        return replace(self, calibration_factor=self.of_differences, of_differences=None)

    def widened(self) -> Estimate:
        """The same with its calibration_factor put into the draws: deviations from their mean times c."""
        mean = self._moments[0]
        return replace(self, draws=mean + self.calibration_factor * (self.draws - mean), calibration_factor=1.0)

    def __sub__(self, other: Estimate | float) -> Estimate:
        return self._with(other, np.subtract, "-")

    def __rsub__(self, other: float) -> Estimate:
        return -self + other

    def __add__(self, other: Estimate | float) -> Estimate:
        return self._with(other, np.add, "+")

    def __mul__(self, factor: float) -> Estimate:
        """By a number that is known."""
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
        # of two molecules, or of energies and forces: widened by factors of their own
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
        """Plain lists and numbers, for JSON."""
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
        """From :meth:`to_dict`, in memory or in a file, where null stands for NaN.

        raises : DataError for what is no such estimate, DrawsError for draws that do not fit the value
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


#: an array as JSON has it; null where a number is not finite
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
    """Factor q such that f ± q · std holds the truth with that probability, from labelled values of the very quantity.

    q is the conformal quantile of |f - truth| / std over values like the one to come; without :data:`LEAST` of them a quantity
    has no calibrated interval, whatever the forces of the model say.

    estimates : of single numbers; truths : (n,) in their unit
    raises : CalibrationError for fewer than 20, or an error bar that is zero or not finite
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
    """``1.0954 ± 0.0012``: the error bar with two digits, the value as far as that goes."""
    if not (np.isfinite(value) and np.isfinite(std)) or std <= ROUNDING * abs(value) or std == 0:
        return f"{value:.6g} ± {std:.2g}"
    decimals = max(0, 1 - int(np.floor(np.log10(std))))
    return f"{value:.{decimals}f} ± {std:.{decimals}f}"
