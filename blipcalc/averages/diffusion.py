"""Mean square displacement and diffusion along a trajectory.

    M(τ) = mean_i |u_i(t + τ) - u_i(t)|²,   D = ½ Σ_τ (τ - τ̄)(M - M̄) / [3 Σ_τ (τ - τ̄)²],   τ from a fifth of the longest lag on

| symbol | meaning |
|---|---|
| u_i | place of atom i, unwrapped, less that of the centre of mass of all atoms |

Every frame t that is followed by the longest lag is a starting frame, and gives one M and one D, which is linear in M.  Weights
on starting frames lead to averages over initial states of draw k that then move on the surface that drove: **the error of
the initial distribution only**.  The whole model error of a rate of motion takes a run on each draw's own surface
(:mod:`blipcalc.averages.independent_runs`).

Unwrapping adds up the nearest-image steps from one frame to the next, which holds in cells that change too (Bullerjahn et al.
2023, doi:10.1021/acs.jctc.3c00308); frames must be so close that no atom moves by half a cell between them.

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

#: lags at most; part of the longest lag at which the fit of D begins; part of the trajectory that the longest lag is
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
        """As in :mod:`blipcalc.averages.observables`."""
        return f"{'diffusion' if self.is_diffusion else 'msd'}:{self.symbol}"

    @property
    def unit(self) -> str:
        """Of the values."""
        return "Å²/ps" if self.is_diffusion else "Å²"

    def chosen(self, atoms: Atoms) -> np.ndarray:
        """(n,) which atoms count."""
        found = np.ones(len(atoms), bool)
        if self.symbol != "all":
            found = np.array(atoms.symbols == self.symbol, dtype=bool)
        if not found.any():
            raise DataError(f"{self.name}: {atoms.get_chemical_formula()} has no {self.symbol}")
        return found

    def lags(self, n_frames: int, interval_ps: float) -> np.ndarray:
        """Lags in frames, the same distance apart.

        raises : ConfigurationError for a longest lag that leaves nothing
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
        """Of M."""
        return None if self.is_diffusion else Axis(lags * interval_ps, "lag", "ps")

    def along(self, places: Array, lags: np.ndarray, interval_ps: float) -> Array:
        """Of every starting frame; places (T, m, 3) Å, unwrapped -> (T - longest, lags) Å², or (T - longest,) Å²/ps."""
        starts = len(places) - int(lags[-1])
        squares = [np.square(places[lag : lag + starts] - places[:starts]).sum(axis=-1).mean(axis=-1) for lag in lags]
        found = np.stack(squares, axis=1)
        if not self.is_diffusion:
            return found
        late = lags >= FIT_FROM * lags[-1]
        centred = (lags[late] - lags[late].mean()) * interval_ps
        return found[:, late] @ centred / (6.0 * np.square(centred).sum())


def unwrapped(positions: Array, cells: Array, pbc: np.ndarray) -> Array:
    """(T, n, 3) Å, (T, 3, 3) Å -> places that never jump by a cell, the first as they are."""
    if not np.any(pbc):
        return np.asarray(positions, dtype=np.float64)
    steps = [
        shortest(after - before, cell, pbc)
        for before, after, cell in zip(positions[:-1], positions[1:], cells[1:], strict=True)
    ]
    return np.concatenate([positions[:1], positions[0] + np.cumsum(steps, axis=0)])


def relative(places: Array, masses: Array) -> Array:
    """(T, n, 3) less the centre of mass of all n atoms."""
    return places - np.einsum("tni,n->ti", places, masses / masses.sum())[:, None]


def interval_ps(times_fs: ArrayLike) -> float:
    """Between frames; raises :class:`DataError` where it is not the same everywhere, or not known."""
    steps = np.diff(np.asarray(times_fs, dtype=np.float64))
    if not len(steps) or not np.isfinite(steps).all() or np.ptp(steps) > 1e-6 * steps.mean() or steps.mean() <= 0:
        raise DataError(
            "displacements take frames at equal times, said in info['time_fs'] (as run_md writes them), more than one of them"
        )
    return float(steps.mean()) / 1000.0
