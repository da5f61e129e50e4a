"""Determine the strains allowed by ASE's cell filters, in the coordinates of derivatives."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.filters import Filter, FrechetCellFilter

from blipcalc.errors import ConfigurationError, SingularCellError
from blipcalc.settings import number

#: named values of ``cell=``, with the arguments of ASE's filter
SHAPES = {"isotropic": {"hydrostatic_strain": True}, "shape": {"constant_volume": True}}
#: trace of a tensor in Voigt order
TRACE = np.array([1.0, 1, 1, 0, 0, 0])
Cell = bool | str | Sequence[bool] | Filter


@contextlib.contextmanager
def rounding_is_no_news() -> Iterator[None]:
    """Suppress scipy's warnings of errors near 1e-13 in the matrix logarithm that ASE's filter takes at every step."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"logm result may be inaccurate, approximate err = \S+e-1\d", RuntimeWarning)
        yield


def cell_filter(atoms: Atoms, cell: Cell, pressure_GPa: float) -> Filter | None:
    """Return the filter for a variable cell; None for a fixed cell.

    cell : False; True; ``"isotropic"``, the volume only; ``"shape"``, all but the volume; a mask of six strains in Voigt order;
        or one of ASE's filters around these atoms
    pressure_GPa : external pressure

    raises : ConfigurationError for anything else; SingularCellError for a cell that is not periodic in three directions
    """
    pressure = number("pressure_GPa", pressure_GPa) * units.GPa
    if isinstance(cell, Filter):
        if cell.atoms is not atoms:
            raise ConfigurationError(f"cell={type(cell).__name__}: expected a filter around the atoms that are relaxed")
        if pressure:
            raise ConfigurationError("pressure_GPa belongs to the filter that is given: scalar_pressure")
        return cell
    if isinstance(cell, (bool, np.bool_)) and not cell:
        if pressure:
            raise ConfigurationError(f"pressure_GPa={pressure_GPa} takes a cell that moves: cell=True")
        return None
    if not atoms.pbc.all():
        raise SingularCellError(f"a cell moves where it is periodic in three directions; pbc is {atoms.pbc.tolist()}")
    shape: Mapping[str, bool] = {}
    chosen: list[bool] | None = None
    if isinstance(cell, str):
        if cell not in SHAPES:
            raise ConfigurationError(f"cell={cell!r}; expected True, False, {', '.join(SHAPES)}, or a mask of six")
        shape = SHAPES[cell]
    elif not isinstance(cell, (bool, np.bool_)):
        mask = np.asarray(cell)
        if mask.shape != (6,) or not np.isin(mask, (0, 1)).all() or not mask.any():
            raise ConfigurationError(
                f"cell={cell!r}; expected a mask of six strains, xx, yy, zz, yz, xz, xy, one of them True"
            )
        chosen = mask.astype(bool).tolist()
    return FrechetCellFilter(atoms, mask=chosen, scalar_pressure=pressure, **shape)


class Stressed(Calculator):
    """Calculator with a given stress, zero energy and zero forces, to measure how a filter responds to a stress."""

    implemented_properties: list[str] = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self, stress: np.ndarray) -> None:
        super().__init__()
        self.stress = stress

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = (), system_changes: Sequence[str] = ()
    ) -> None:
        """Set the results to zero energy and forces, and the given stress."""
        super().calculate(atoms)
        n = 0 if atoms is None else len(atoms)
        self.results = {
            "energy": 0.0,
            "free_energy": 0.0,
            "forces": np.zeros((n, 3)),
            "stress": self.stress,
        }


@dataclass(frozen=True)
class CellResponse:
    """Linear map from a stress to a filter's generalised forces on the cell: rows = matrix @ stress + offset.

    matrix : (r, 6); offset : (r,); stress in eV/Å³, ASE's Voigt order
    atoms_move : False if atoms only follow the cell, as in ``StrainFilter``
    """

    matrix: np.ndarray
    offset: np.ndarray
    atoms_move: bool

    @property
    def strains(self) -> np.ndarray:
        """Return the allowed strains (6, s), shears twice ε: those that do work on a row of the filter."""
        _, s, vt = np.linalg.svd(self.matrix)
        return vt[: int((s > 1e-8 * s.max()).sum())].T

    @property
    def pressure(self) -> float:
        """Return the external pressure, eV/Å³; 0 for a fixed volume."""
        if np.abs(TRACE @ self.strains).max() < 1e-6:
            return 0.0
        unit = self.matrix @ TRACE
        return float(self.offset @ unit / (unit @ unit))


def response_of(around: Filter) -> CellResponse:
    """Return the response of a filter to a stress; its atoms have their calculator back afterwards.

    raises : ConfigurationError for a filter of atoms, or one whose cell cannot move
    """
    atoms, calculator = around.atoms, around.atoms.calc

    def rows(stress: np.ndarray) -> np.ndarray:
        atoms.calc = Stressed(stress)
        return np.array(around.get_forces())

    try:
        at_rest = rows(np.zeros(6))
        found = np.array([rows(stress) - at_rest for stress in np.eye(6)])
    finally:
        atoms.calc = calculator
    atoms_move = found.shape[1] > len(atoms)
    first = len(atoms) if atoms_move else 0
    matrix = found[:, first:].reshape(6, -1).T
    if not np.abs(matrix).any():
        raise ConfigurationError(f"cell={type(around).__name__}: it lets no strain through")
    return CellResponse(matrix, at_rest[first:].ravel(), atoms_move)
