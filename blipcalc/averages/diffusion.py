"""Compute mean square displacement and diffusion along a trajectory.

    M(τ) = mean_i |u_i(t + τ) - u_i(t)|²,   D = ½ Σ_τ (τ - τ̄)(M - M̄) / [3 Σ_τ (τ - τ̄)²],   τ from a fifth of the longest lag on

| symbol | meaning |
|---|---|
| u_i | unwrapped position of atom i relative to the centre of mass of all atoms |

Every frame t with a full longest lag after it is a starting frame, and gives one M and one D, which is linear in M.  Weights on
starting frames give averages over initial states of draw k that then move on the driving potential: **the error of the initial
distribution only**.  The full model error of a dynamical quantity needs a run on each draw
(:mod:`blipcalc.averages.independent_runs`).

Unwrapping sums the nearest-image steps between frames, which is also correct for variable cells (Bullerjahn et al. 2023,
doi:10.1021/acs.jctc.3c00308); no atom may move by half a cell or more between frames.

Source: Einstein 1905; Allen and Tildesley 2017, section 2.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import ArrayLike

from blipcalc.averages.observables import Array, Axis
from blipcalc.core.periodic import shortest
from blipcalc.errors import ConfigurationError, DataError

#: most lags; start of the fit of D as a fraction of the longest lag; longest lag as a fraction of the trajectory
LAGS, FIT_FROM, LONGEST = 50, 0.2, 0.25
INITIAL_ONLY = (
    "model error of the initial distribution only: all move on the surface that drove; for all of it, independent runs"
)


@dataclass(frozen=True)
class Displacement:
    """Mean square displacement of an element, or its diffusion coefficient.

    symbol : of an element, or ``all``
    longest_ps : longest lag, ps; None: a quarter of the (shortest) trajectory
    is_diffusion : D, Å²/ps (1e-4 cm²/s), instead of M
    """

    symbol: str = "all"
    longest_ps: float | None = None
    is_diffusion: bool = False

    def __post_init__(self) -> None:
        if self.symbol != "all" and self.symbol not in atomic_numbers:
            raise ConfigurationError(f"displacement of {self.symbol!r}; expected the symbol of an element, or 'all'")

    @property
    def name(self) -> str:
        """Return the name used in :mod:`blipcalc.averages.observables`."""
        return f"{'diffusion' if self.is_diffusion else 'msd'}:{self.symbol}"

    @property
    def unit(self) -> str:
        """Return the unit of the values."""
        return "Å²/ps" if self.is_diffusion else "Å²"

    def chosen(self, atoms: Atoms) -> np.ndarray:
        """Return (n,) True for atoms that count."""
        found = np.ones(len(atoms), bool)
        if self.symbol != "all":
            found = np.array(atoms.symbols == self.symbol, dtype=bool)
        if not found.any():
            raise DataError(f"{self.name}: {atoms.get_chemical_formula()} has no {self.symbol}")
        return found

    def lags(self, n_frames: int, interval_ps: float) -> np.ndarray:
        """Return evenly spaced lags, in frames.

        raises : ConfigurationError for a longest lag below four frames, or not shorter than the trajectory
        """
        most = int(n_frames * LONGEST) if self.longest_ps is None else round(self.longest_ps / interval_ps)
        if not 4 <= most < n_frames:
            raise ConfigurationError(
                f"{self.name}: a longest lag of {most} frames in a trajectory of {n_frames} ({interval_ps:g} ps apart); expected "
                "four or more, and fewer than there are frames"
            )
        stride = -(-most // LAGS)
        return np.arange(stride, most + 1, stride)

    def axis(self, lags: np.ndarray, interval_ps: float) -> Axis | None:
        """Return the axis of lags of M; None for D."""
        return None if self.is_diffusion else Axis(lags * interval_ps, "lag", "ps")

    def along(self, places: Array, lags: np.ndarray, interval_ps: float) -> Array:
        """Return M (T - longest, lags) Å² or D (T - longest,) Å²/ps of starting frames; ``places`` (T, m, 3) Å are unwrapped."""
        starts = len(places) - int(lags[-1])
        squares = [np.square(places[lag : lag + starts] - places[:starts]).sum(axis=-1).mean(axis=-1) for lag in lags]
        found = np.stack(squares, axis=1)
        if not self.is_diffusion:
            return found
        late = lags >= FIT_FROM * lags[-1]
        centred = (lags[late] - lags[late].mean()) * interval_ps
        return found[:, late] @ centred / (6.0 * np.square(centred).sum())


def unwrapped(positions: Array, cells: Array, pbc: np.ndarray) -> Array:
    """Return positions (T, n, 3) Å without jumps by a cell vector, from positions and cells (T, 3, 3) Å; the first unchanged."""
    if not np.any(pbc):
        return np.asarray(positions, dtype=np.float64)
    steps = [
        shortest(after - before, cell, pbc)
        for before, after, cell in zip(positions[:-1], positions[1:], cells[1:], strict=True)
    ]
    return np.concatenate([positions[:1], positions[0] + np.cumsum(steps, axis=0)])


def relative(places: Array, masses: Array) -> Array:
    """Return positions (T, n, 3) relative to the centre of mass of all n atoms."""
    return places - np.einsum("tni,n->ti", places, masses / masses.sum())[:, None]


def interval_ps(times_fs: ArrayLike) -> float:
    """Return the time between frames, ps; raises :class:`DataError` if it varies or is not known."""
    steps = np.diff(np.asarray(times_fs, dtype=np.float64))
    if not len(steps) or not np.isfinite(steps).all() or np.ptp(steps) > 1e-6 * steps.mean() or steps.mean() <= 0:
        raise DataError(
            "displacements take frames at equal times, said in info['time_fs'] (as run_md writes them), more than one of them"
        )
    return float(steps.mean()) / 1000.0
