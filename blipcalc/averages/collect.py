"""Collect an observable along a stored run, with the energies of the draws."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from blipcalc.averages.diffusion import Displacement, interval_ps, relative, unwrapped
from blipcalc.averages.observables import Array, Axis, Observable
from blipcalc.averages.reweighted_average import Series
from blipcalc.averages.stored_run import DrawEnergies, Stored
from blipcalc.core.demanded import demanded
from blipcalc.core.validate import check_structure
from blipcalc.errors import ConfigurationError, DataError, NonFiniteError
from blipcalc.settings import number


def collect(
    stored: Stored,
    observable: Observable | Displacement,
    *,
    discard: float = 0.1,
    with_draws: bool = True,
    calculator: Calculator | None = None,
    batch: int = 16,
) -> tuple[Series, Axis | None, Atoms]:
    """Return the series of an observable over all frames, reading them once.

    Parameters
    ----------
    discard : initial fraction of each replica that is left out as equilibration
    with_draws : also collect energies of the draws
    calculator, batch : see :class:`~blipcalc.averages.stored_run.DrawEnergies`

    Returns
    -------
    the series, the axis of an array, and the first frame

    Raises
    ------
    DataError : no frames, shapes that differ, frames without energies of the draws; NonFiniteError : a value that is not finite
    """
    if not 0 <= number("discard", discard) < 1:
        raise ConfigurationError(f"discard={discard}; expected a part of the run, at least 0 and below 1")
    replicas = []
    for source in stored.replicas:
        replica = _Replica(observable, DrawEnergies(calculator, batch) if with_draws else None)
        for atoms in stored.frames(source):
            replica.add(atoms)
        replicas.append(replica)
    first = replicas[0].frame
    if first is None:
        raise DataError("expected a trajectory of one frame or more, got an empty one")
    axis = observable.axis if isinstance(observable, Observable) else None
    lags = None
    if isinstance(observable, Displacement):
        apart = [interval_ps(replica.times[int(len(replica) * discard) :]) for replica in replicas]
        if np.ptp(apart) > 1e-6 * apart[0]:
            raise DataError(f"replicas of one run have frames at equal times, got intervals of {apart} ps")
        lags = observable.lags(min(len(r) - int(len(r) * discard) for r in replicas), apart[0])
        axis = observable.axis(lags, apart[0])
    values, deviations, own = zip(*(replica.done(discard, lags) for replica in replicas), strict=True)
    return Series(values, deviations, None if own[0] is None else own), axis, first


class _Replica:
    """Values, times and energies of the draws of one replica, collected frame by frame."""

    def __init__(self, observable: Observable | Displacement, draws: DrawEnergies | None) -> None:
        self.observable, self.draws = observable, draws
        self.values: list[Any] = []
        self.times: list[float] = []
        self.frame: Atoms | None = None
        self._cells: list[Array] = []

    def __len__(self) -> int:
        return len(self.values)

    def add(self, atoms: Atoms) -> None:
        """Add the next frame."""
        self.frame = atoms if self.frame is None else self.frame
        if isinstance(self.observable, Displacement):
            value = atoms.positions
            self.times.append(float(atoms.info.get("time_fs", np.nan)))
            self._cells.append(atoms.cell.array)
        else:
            check_structure(atoms)
            given = self.observable.function(atoms)
            try:
                value = np.asarray(given, dtype=np.float64)
            except (TypeError, ValueError):
                raise DataError(
                    f"{self.observable.name} gives {reprlib.repr(given)} at frame {len(self)}; expected numbers"
                ) from None
        if self.values and value.shape != self.values[0].shape:
            raise DataError(
                f"{self.observable.name}: shape {value.shape} at frame {len(self)}, {self.values[0].shape} before; expected one "
                "shape for all frames"
            )
        if not np.isfinite(value).all():
            raise NonFiniteError(f"{self.observable.name} is not finite at frame {len(self)}")
        if self.draws is not None:
            self.draws.add(atoms)
        self.values.append(value)

    def done(self, discard: float, lags: np.ndarray | None) -> tuple[Array, Array, Array | None]:
        """Return values (T, …), energies of the draws (T, K) and, if they differ, values on each draw (T, K, …)."""
        skip = int(len(self) * discard)
        deviations = np.empty((len(self), 0)) if self.draws is None else self.draws.done()
        values, deviations, own = np.array(self.values[skip:]), deviations[skip:], None
        observable = self.observable
        if isinstance(observable, Observable) and observable.on_draws is not None and self.draws is not None:
            n_atoms = len(demanded(self.frame, "a frame"))
            own = np.array([observable.on_draws(*pair, n_atoms) for pair in zip(values, deviations, strict=True)])
        if isinstance(observable, Displacement) and lags is not None:
            cells, atoms = np.array(self._cells[skip:]), demanded(self.frame, "a frame")
            places = relative(unwrapped(values, cells, atoms.pbc), atoms.get_masses())[:, observable.chosen(atoms)]
            values = observable.along(places, lags, interval_ps(self.times[skip:]))
            deviations = deviations[: len(values)]
        return values, deviations, own
