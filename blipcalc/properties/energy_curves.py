"""Evaluate an energy along a coordinate, with its band: minima, maxima and barriers of every draw.

Each draw has a cubic spline through its points, with a per-draw minimum and maximum:

    barrier_k = max_x E_k(x) - min_x E_k(x)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from ase import Atoms
from scipy.interpolate import CubicSpline

from blipcalc.errors import OutOfRangeError
from blipcalc.properties.band_plots import plot_band
from blipcalc.properties.property_tables import table_of
from blipcalc.stats.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Zero = Literal["lowest", "own", "first", "last", "none"]
#: points of the plotted curve
FINE = 400
ZEROS = ("lowest", "own", "first", "last", "none")


@dataclass(frozen=True)
class Scan:
    """Energies along a coordinate.

    coordinate : (S,) increasing, in ``unit``; energies : (S,) eV, total energies
    zero : reference of ``relative``
    period : of the coordinate, if the points cover a full turn; else None
    structures : (S), as evaluated
    """

    coordinate: np.ndarray
    energies: Estimate
    name: str
    unit: str
    zero: Zero
    period: float | None
    structures: tuple[Atoms, ...]

    @property
    def relative(self) -> Estimate:
        """Return the energies (S,) relative to the reference ``zero``, eV.

        ``lowest`` (point of the lowest energy of the driving potential), ``first``, ``last``: one structure for all draws, whose
        error bar is zero; ``own``: the minimum of every draw; ``none``: total energies.
        """
        if self.zero == "none":
            return self.energies
        if self.zero == "own":
            return self.energies.relative().map(lambda e: e - self._extremum(e, -1)[1])
        at = {"lowest": int(np.argmin(self.energies.value)), "first": 0, "last": -1}[self.zero]
        return self.energies.relative().map(lambda e: e - e[at])

    @property
    def barrier(self) -> Estimate:
        """Return the highest minus the lowest energy of every draw, eV.

        raises : OutOfRangeError if the driving potential or a draw is highest at an end of the points
        """
        self._check_inside(+1)
        return self.energies.relative().map(lambda e: self._extremum(e, +1)[1] - self._extremum(e, -1)[1])

    @property
    def depth(self) -> Estimate:
        """Return the energy of the last point minus the lowest one of every draw, eV: for a dimer, its dissociation energy.

        raises : OutOfRangeError as for ``minimum_at``
        """
        self._check_inside(-1)
        return self.energies.relative().map(lambda e: e[-1] - self._extremum(e, -1)[1])

    @property
    def minimum_at(self) -> Estimate:
        """Return the minimum of the driving potential, and the nearest one of every draw, in the unit of the coordinate.

        raises : OutOfRangeError if the driving potential or a draw is lowest at an end of the points
        """
        return self._place(-1)

    @property
    def maximum_at(self) -> Estimate:
        """Return the maximum of the driving potential, and the nearest one of every draw, in the unit of the coordinate.

        raises : OutOfRangeError if the driving potential or a draw is highest at an end of the points
        """
        return self._place(+1)

    def quantities(self) -> dict[str, Estimate]:
        """Return {name: estimate} of the scalar quantities that lie inside the range of points."""
        found = {}
        for name in ("minimum_at", "maximum_at", "barrier", "depth"):
            try:
                found[name.replace("_", " ")] = getattr(self, name)
            except OutOfRangeError:
                continue
        if self.period is not None:
            found.pop("depth", None)  # in a full turn the last point has no special meaning
        return found

    def table(self) -> str:
        """Return the scalar quantities and the energies at all points as text."""
        relative = self.relative
        rows = {f"{self.name} {x:g} {self.unit}": relative[s] for s, x in enumerate(self.coordinate)}
        return table_of(f"{self.name} scan, energies from {self.zero!r}", self.quantities() | rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "zero": self.zero,
            "period": self.period,
            "coordinate": self.coordinate.tolist(),
            "energies": self.energies.to_dict(),
            "relative": self.relative.to_dict(),
            **{name: estimate.to_dict() for name, estimate in self.quantities().items()},
        }

    def plot(self, path: str | Path | None = None, *, title: str = "") -> Figure:
        """Draw the curve with its band."""
        knots = self._knots(self.energies.value)[0]
        x = np.linspace(knots[0], knots[-1], FINE)
        curve = self.relative.map(lambda e: self._spline(e)(x))
        return plot_band(x, curve, path, xlabel=f"{self.name} ({self.unit})", ylabel="energy (eV)", title=title)

    def _knots(self, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.period is None:
            return self.coordinate, energies
        return np.append(self.coordinate, self.coordinate[0] + self.period), np.append(energies, energies[0])

    def _spline(self, energies: np.ndarray) -> CubicSpline:
        return CubicSpline(*self._knots(energies), bc_type="not-a-knot" if self.period is None else "periodic")

    def _extremum(self, energies: np.ndarray, sign: int) -> tuple[float, float]:
        """Return coordinate and energy of the maximum (+1) or minimum (-1) of one curve."""
        spline = self._spline(energies)
        places = np.concatenate([spline.x, spline.derivative().roots(extrapolate=False)])
        values = spline(places)
        best = int(np.nanargmax(sign * values))
        return float(places[best]), float(values[best])

    def _place(self, sign: int) -> Estimate:
        """Return the extremum; for draws the nearest of that kind, since the highest of several similar ones is random."""
        self._check_inside(sign)
        centre = self._extremum(self.energies.value, sign)[0]

        def nearest(energies: np.ndarray) -> float:
            spline = self._spline(energies)
            places = spline.derivative().roots(extrapolate=False)
            ways = places[sign * spline(places, 2) < 0] - centre
            if self.period is not None:
                ways = (ways + self.period / 2) % self.period - self.period / 2
            return centre + float(ways[np.argmin(np.abs(ways))])

        return self.energies.relative().map(nearest, self.unit)

    def _check_inside(self, sign: int) -> None:
        if self.period is not None:
            return
        ends = self.coordinate[[0, -1]]
        curves = {"the surface that drives": self.energies.value} | {
            f"draw {k}": e for k, e in enumerate(self.energies.draws)
        }
        outside = [name for name, e in curves.items() if self._extremum(e, sign)[0] in ends]
        if outside:
            what = "highest" if sign > 0 else "lowest"
            raise OutOfRangeError(
                f"expected the {what} energy inside of {ends[0]:g} … {ends[1]:g} {self.unit}, it lies at an end for "
                f"{len(outside)} of {len(curves)}: {', '.join(outside[:5])}; scan a wider range"
            )
