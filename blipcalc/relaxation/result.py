"""Hold the result of a relaxation: a structure, with error bars of positions, cell, bonds, angles and energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from ase import Atoms

from blipcalc.core.periodic import repeating, shortest
from blipcalc.errors import ConfigurationError
from blipcalc.files.json_file import Kind
from blipcalc.relaxation.bonds import bonded_pairs
from blipcalc.relaxation.stopping import Descent
from blipcalc.settings import whole
from blipcalc.stats.estimate import Estimate, with_error
from blipcalc.stats.spread import atom_variance, covariance

#: kind of file that holds a relaxation
RELAXATION = Kind("relaxation", "relax again with 'blipcalc relax'")
#: most bonds that a table lists individually
MOST_BONDS = 40
Method = Literal["linear response", "re-relaxed"]


@dataclass(frozen=True)
class ErrorBars:
    """Per-draw minima near the minimum of the driving potential.

    structures : K minima, each with its own cell
    energy : eV, of the minima; the enthalpy under a pressure
    positions : (n, 3) Å as an :class:`Estimate`, in the frame and the cell of the relaxed structure
    method, why : by which the minima were found, and the reason for it
    softest : eV/Å², the smallest eigenvalue of the Hessian of the driving potential
    converged : (K,) whether each draw is in its minimum; True for all by linear response
    """

    structures: list[Atoms]
    energy: Estimate
    positions: Estimate
    method: Method
    why: str
    softest: float
    converged: np.ndarray


@dataclass(frozen=True)
class Relaxed:
    """Relaxed structure with its error bars.

    atoms : snapshot of the relaxed structure
    descent : status, steps and forces of the optimiser
    error_bars : from the draws; None if not requested, or if no minimum was reached
    notes : warnings for the user
    """

    atoms: Atoms
    descent: Descent
    error_bars: ErrorBars | None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        found = "no error bars" if self.error_bars is None else f"energy {self.energy}"
        return f"Relaxed({self.atoms.get_chemical_formula()}, {self.status} after {self.descent.steps} steps; {found})"

    @property
    def status(self) -> str:
        """Return ``converged``, ``noise floor``, ``steps`` or ``halted``; see :class:`~blipcalc.relaxation.stopping.Descent`."""
        return self.descent.status

    @property
    def energy(self) -> Estimate:
        """Return the energy of the relaxed structure, eV, with the energy of each draw in its per-draw minimum."""
        return self._bars.energy

    @property
    def positions(self) -> Estimate:
        """Return the positions (n, 3) Å, in the frame and the cell of the relaxed structure."""
        return self._bars.positions

    @cached_property
    def position_std(self) -> np.ndarray:
        """Return the standard deviation of each position (n,) Å: the root of a third of the trace of its covariance."""
        return np.sqrt(atom_variance(self.position_cov))

    @cached_property
    def position_cov(self) -> np.ndarray:
        """Return the covariance of each position (n, 3, 3) Å², times the squared calibration factor."""
        return self.positions.calibration_factor**2 * covariance(self.positions.draws)

    def distance(self, i: int, j: int) -> Estimate:
        """Return the distance of two atoms, Å, to the nearest image."""
        a, b = self._index(i), self._index(j)
        return self.measure(lambda at: at.get_distance(a, b, mic=bool(at.pbc.any())), "Å", self._named([a, b]))

    def angle(self, i: int, j: int, k: int) -> Estimate:
        """Return the angle at the second of three atoms, °."""
        a, b, c = (self._index(atom) for atom in (i, j, k))
        return self.measure(lambda at: at.get_angle(a, b, c, mic=bool(at.pbc.any())), "°", self._named([a, b, c]))

    def dihedral(self, i: int, j: int, k: int, m: int) -> Estimate:
        """Return the dihedral of four atoms, °; draws are within 180° of the value."""
        a, b, c, d = (self._index(atom) for atom in (i, j, k, m))
        here = self.atoms.get_dihedral(a, b, c, d, mic=bool(self.atoms.pbc.any()))

        def near(atoms: Atoms) -> float:
            turned = atoms.get_dihedral(a, b, c, d, mic=bool(atoms.pbc.any())) - here
            return here + (turned + 180.0) % 360.0 - 180.0

        return self.measure(near, "°", self._named([a, b, c, d]))

    def cell_parameters(self) -> Estimate:
        """Return ``cell.cellpar()`` (6,), Å and °, with the calibration factor of forces, since stress has none."""
        return self.measure(lambda atoms: atoms.cell.cellpar(), "Å, °", "cell")

    def volume(self) -> Estimate:
        """Return the volume, Å³."""
        return self.measure(lambda atoms: atoms.get_volume(), "Å³", "volume")

    def measure(self, function: Callable[[Atoms], Any], unit: str, note: str = "") -> Estimate:
        """Return any function of a structure, evaluated on the relaxed one and on the minimum of every draw."""
        bars = self._bars
        return Estimate(
            np.asarray(function(self.atoms), dtype=float),
            np.array([function(atoms) for atoms in bars.structures], dtype=float),
            unit,
            bars.positions.calibration_factor,
            bars.positions.calibrated,
            note,
            bars.positions.source,
        )

    def bonds(self) -> list[Estimate]:
        """Return all bond lengths (:mod:`blipcalc.relaxation.bonds`), shortest first; one for several images of a pair."""
        i, j, *_ = bonded_pairs(self.atoms)
        return [
            self.distance(*pair)
            for pair in dict.fromkeys(zip(i.tolist(), j.tolist(), strict=True))
            if pair[0] < pair[1]
        ]

    def mean_bonds(self) -> list[Estimate]:
        """Return the mean bond length of each pair of elements, Å, with the same bonds on every draw."""
        i, j, _, shifts = bonded_pairs(self.atoms)
        symbols = np.array(self.atoms.get_chemical_symbols())
        kinds = np.array(["-".join(sorted(pair)) for pair in zip(symbols[i], symbols[j], strict=True)])

        def mean(kept: np.ndarray, atoms: Atoms) -> float:
            way = atoms.positions[j[kept]] - atoms.positions[i[kept]] + shifts[kept] @ atoms.cell.array
            return float(np.linalg.norm(way, axis=1).mean())

        found = []
        for kind in dict.fromkeys(kinds.tolist()):
            kept = np.flatnonzero(kinds == kind)
            found.append(self.measure(partial(mean, kept), "Å", f"{kind}, mean of {len(kept)}"))
        return found

    def table(self, extra: Sequence[Estimate] = ()) -> str:
        """Return text with status, energy, cell if it moved, bonds (means if there are many), and ``extra`` estimates."""
        lines = [f"{self.descent.status} after {self.descent.steps} steps: {self.descent.reason}"]
        if self.error_bars is not None:
            bars = self.error_bars
            calibrated = "calibrated on forces and energies" if self.positions.calibrated else "posterior values"
            lines += [
                f"error bars: {bars.method} of {self.positions.n_draws} draws, {bars.why}; {calibrated}",
                f"{bars.energy.note:<14}{_line(bars.energy)}",
                f"{'positions':<14}{self.position_std.mean():.2g} Å on average, at most {self.position_std.max():.2g}",
            ]
            if self.cell_moved:
                names = ("a", "b", "c", "α", "β", "γ")
                cell = self.cell_parameters()
                units = ("Å",) * 3 + ("°",) * 3
                for k, (name, unit) in enumerate(zip(names, units, strict=True)):
                    lines.append(f"{name:<14}{_line(cell[k], unit)}")
                lines.append(f"{'volume':<14}{_line(self.volume())}")
                if self.positions.calibrated:
                    lines.append(f"{'':<14}(cell: widened as forces are; stresses have no labels and no calibration)")
            bonds = self.bonds() if len(bonded_pairs(self.atoms)[0]) <= MOST_BONDS else self.mean_bonds()
            lines += [f"{estimate.note + ' ':<14}{_line(estimate)}" for estimate in (*bonds, *extra)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    @property
    def cell_moved(self) -> bool:
        """Return whether the cells of draws differ from that of the relaxed structure."""
        return any((atoms.cell.array != self.atoms.cell.array).any() for atoms in self._bars.structures)

    def to_dict(self) -> dict[str, Any]:
        """Return status and every estimate of :meth:`table` with its draws, for JSON."""
        found: dict[str, Any] = {
            "status": self.status,
            "reason": self.descent.reason,
            "steps": self.descent.steps,
            "fmax_eV_per_Angstrom": self.descent.fmax,
            "notes": list(self.notes),
        }
        if self.error_bars is not None:
            found |= {
                "method": self.error_bars.method,
                "why": self.error_bars.why,
                "softest_eV_per_Angstrom2": self.error_bars.softest,
                "converged": self.error_bars.converged.tolist(),
                self.energy.note: self.energy.to_dict(),
                "positions": self.positions.to_dict(),
                "bonds": {bond.note: bond.to_dict() for bond in self.bonds()},
            }
            if self.cell_moved:
                found |= {"cell": self.cell_parameters().to_dict(), "volume": self.volume().to_dict()}
        return found

    @property
    def _bars(self) -> ErrorBars:
        if self.error_bars is None:
            raise ConfigurationError(
                f"this relaxation has no error bars: {self.descent.reason}; error bars take a minimum, and error_bars= not None"
            )
        return self.error_bars

    def _index(self, i: int) -> int:
        index = whole("index of an atom", i)
        if not -len(self.atoms) <= index < len(self.atoms):
            raise ConfigurationError(f"no atom {index}: there are {len(self.atoms)}, from 0 on")
        return index % len(self.atoms)

    def _named(self, indices: Sequence[int]) -> str:
        return "-".join(f"{self.atoms.symbols[i]}{i}" for i in indices)


def _line(estimate: Estimate, unit: str | None = None) -> str:
    """Return the value, the error bar, and the bias if it is more than a tenth of that."""
    text = f"{with_error(float(estimate.value), float(estimate.std))} {unit or estimate.unit}"
    bias = float(estimate.bias)
    return f"{text}   bias {bias:+.1g}" if abs(bias) > 0.1 * float(estimate.std) else text


def in_frame_of(atoms: Atoms, structures: Sequence[Atoms]) -> np.ndarray:
    """Return the positions (K, n, 3) Å of structures in the cell of a reference, without rigid motions.

    With constraints no rigid motion is removed, since fixed atoms define the frame.
    """
    found = []
    for other in structures:
        if atoms.pbc.any():
            scaled = repeating(other.cell, atoms.pbc).scaled_positions(other.positions)
            moved = shortest(scaled @ repeating(atoms.cell, atoms.pbc) - atoms.positions, atoms.cell, atoms.pbc)
        else:
            moved = other.positions - atoms.positions
        if not atoms.constraints:
            moved = moved - moved.mean(axis=0)
            if not atoms.pbc.any() and len(atoms) > 1:
                moved = _turned_back(atoms.positions, moved)
        found.append(atoms.positions + moved)
    return np.array(found)


def _turned_back(positions: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return displacements after the rotation that minimises them (Kabsch 1976, doi:10.1107/S0567739476001873)."""
    centre = positions.mean(axis=0)
    here, there = positions - centre, positions + moved - centre
    u, _, vt = np.linalg.svd(there.T @ here)
    turn = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    return there @ turn - here
