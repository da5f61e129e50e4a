"""Compute an equation of state with error bars: volume, lattice constant, energy, bulk modulus, pressure derivative.

The driving potential and all draws are evaluated at the same volumes, and one curve is fitted to each.

Ions (and the shape of the cell) can be relaxed on the driving potential at every volume; energies, volumes and bulk moduli of the
draws are then exact at first order (:mod:`blipcalc.properties.relaxed_energies`), and optionally at second order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ase.units
import numpy as np
from ase import Atoms

from blipcalc.errors import ConfigurationError, NotAMinimumError, OutOfRangeError, StructureError
from blipcalc.properties.comparable import surfaces_of
from blipcalc.properties.eos_fits import NAMES, Fit, fit
from blipcalc.properties.property_tables import table_of
from blipcalc.properties.relaxed_energies import relaxed_copy, relaxed_energies
from blipcalc.settings import choice, number, several, switch, whole
from blipcalc.stats.estimate import Estimate

#: primitive cells in the cubic cell, by ASE's name of the lattice
IN_CUBE = {"CUB": 1, "BCC": 2, "FCC": 4}


@dataclass(frozen=True)
class EquationOfState:
    """Parameters of an equation of state, with error bars.

    volume : V0, Å³ of the cell; energy : E0, eV of the cell; bulk_modulus : B0, GPa; slope : B0′
    scale : (V0 / V)^(1/3), factor on the lengths of the given cell
    lattice_constant : a0, Å, edge of the cubic cell of a cubic lattice (for a supercell: its edge); None for others
    volumes : (S,) Å³; energies : (S,) eV
    residual : root mean square deviation of the driving potential's curve from its energies, eV
    eos : name of the equation of state
    """

    volume: Estimate
    energy: Estimate
    bulk_modulus: Estimate
    slope: Estimate
    scale: Estimate
    lattice_constant: Estimate | None
    volumes: np.ndarray
    energies: Estimate
    residual: float
    eos: str

    def quantities(self) -> dict[str, Estimate]:
        """Return {name: estimate} of scalar quantities."""
        rows = {"volume": self.volume, "energy": self.energy, "bulk modulus": self.bulk_modulus, "B0′": self.slope}
        return rows if self.lattice_constant is None else {"lattice constant": self.lattice_constant} | rows

    def table(self) -> str:
        """Return the scalar quantities as text."""
        title = f"equation of state ({self.eos}), {len(self.volumes)} volumes, residual {self.residual:.2g} eV"
        return table_of(title, self.quantities())

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        rows = {name: estimate.to_dict() for name, estimate in self.quantities().items()}
        return rows | {
            "scale": self.scale.to_dict(),
            "volumes": self.volumes.tolist(),
            "energies": self.energies.to_dict(),
            "residual": self.residual,
            "eos": self.eos,
        }


def equation_of_state(
    atoms: Atoms,
    *,
    volumes: Sequence[float] | np.ndarray | None = None,
    strain: float = 0.02,
    points: int = 9,
    eos: str = "birchmurnaghan",
    relax_ions: bool = False,
    relax_shape: bool = False,
    second_order: bool = False,
    fmax: float = 0.01,
    steps: int = 500,
) -> EquationOfState:
    """Fit an equation of state to the driving potential and every draw; return its parameters with error bars.

    Parameters
    ----------
    atoms : a periodic crystal near its minimum, with its calculator
    volumes : Å³ of the cell, five or more; None for ``points`` cells whose edges are (1 - ``strain``) to (1 + ``strain``) of the
        given ones, strains evenly spaced
    eos : one of :data:`blipcalc.properties.eos_fits.NAMES`
    relax_ions : relax atoms on the driving potential at every volume; otherwise they only scale with the cell
    relax_shape : relax atoms and the shape of the cell, as needed for crystals that are not cubic
    second_order : with ``relax_ions``, add the energy that every draw gains at its own positions
    fmax, steps : of the relaxations, eV/Å

    Raises
    ------
    OutOfRangeError : a minimum of the driving potential or a draw outside of the volumes
    NotAMinimumError : no minimum of the driving potential near the volumes
    StructureError : not a crystal; ConfigurationError, IncomparableError, NotConvergedError : arguments, calculators, relaxations

    Examples
    --------
    >>> eos = equation_of_state(atoms)
    >>> str(eos.bulk_modulus), eos.volume.interval()
    """
    surfaces = surfaces_of(atoms)
    if not atoms.pbc.all():
        raise StructureError(f"expected a crystal, periodic in three directions; pbc is {atoms.pbc.tolist()}")
    choice("eos", eos, NAMES)
    relax_ions, relax_shape = switch("relax_ions", relax_ions), switch("relax_shape", relax_shape)
    second_order = switch("second_order", second_order)
    if second_order and (relax_shape or not relax_ions):
        raise ConfigurationError(
            "second_order=True is for positions alone; expected relax_ions=True, relax_shape=False"
        )
    at = _volumes(atoms, volumes, strain, points)
    structures = [scaled(atoms, volume) for volume in at]
    if relax_ions or relax_shape:
        cell = "shape" if relax_shape else False
        structures = [relaxed_copy(surfaces, moved, cell=cell, fmax=fmax, steps=steps) for moved in structures]
        at = np.array([moved.get_volume() for moved in structures])  # filters keep the volume only to first order
    value, draws = relaxed_energies(surfaces, structures, second_order=second_order)
    fits = [fit(eos, at, energies) for energies in (value, *draws)]
    _check_range(fits, at)

    def estimate(values: Sequence[float], unit: str, of: Literal["energy", "forces"]) -> Estimate:
        return surfaces.estimate(values[0], values[1:], unit, atoms, of=of)

    volume = estimate([f.volume for f in fits], "Å³", "forces")
    per_cube = IN_CUBE.get(atoms.cell.get_bravais_lattice().name)
    return EquationOfState(
        volume,
        estimate([f.energy for f in fits], "eV", "energy"),
        estimate([f.bulk_modulus / ase.units.GPa for f in fits], "GPa", "forces"),
        estimate([f.slope for f in fits], "", "forces"),
        volume.map(lambda v: np.cbrt(v / atoms.get_volume()), ""),
        None if per_cube is None else volume.map(lambda v: np.cbrt(per_cube * v), "Å"),
        at,
        surfaces.estimate(value, draws, "eV", atoms, of="energy"),
        fits[0].residual,
        eos,
    )


def scaled(atoms: Atoms, volume: float) -> Atoms:
    """Return a copy with another cell volume (Å³) and the same shape, atoms scaled with the cell."""
    moved = atoms.copy()
    moved.calc = None
    moved.set_cell(moved.cell.array * np.cbrt(volume / atoms.get_volume()), scale_atoms=True)
    return moved


def _volumes(atoms: Atoms, volumes: Sequence[float] | np.ndarray | None, strain: float, points: int) -> np.ndarray:
    if volumes is None:
        strain, points = number("strain", strain, above=0.0), whole("points", points, 5, what="number of volumes")
        if strain >= 1:
            raise ConfigurationError(f"strain={strain:g}; expected one below 1, such as 0.02")
        return atoms.get_volume() * (1 + np.linspace(-strain, strain, points)) ** 3
    found = np.array([number("volume", v, above=0.0) for v in several("volumes", volumes, "volumes in Å³")])
    if len(set(found)) < 5:
        raise ConfigurationError(f"expected five different volumes or more for four parameters, got {found.tolist()}")
    return np.sort(found)


def _check_range(fits: Sequence[Fit], volumes: np.ndarray) -> None:
    """Raise an error for minima outside of the volumes; the first fit is of the driving potential."""
    if np.isnan(fits[0].volume):
        raise NotAMinimumError(
            f"the energies of the surface that drives have no minimum near {volumes[0]:.4g} … {volumes[-1]:.4g} Å³; "
            "relax the crystal first, or give other volumes"
        )
    outside = {
        "the surface that drives" if k < 0 else f"draw {k}": f.volume
        for k, f in enumerate(fits, -1)
        if not volumes[0] <= f.volume <= volumes[-1]
    }
    if outside:
        places = ", ".join(
            f"{name} {'nowhere near' if np.isnan(volume) else f'at {volume:.5g} Å³'}"
            for name, volume in list(outside.items())[:5]
        )
        raise OutOfRangeError(
            f"expected minima between {volumes[0]:.5g} and {volumes[-1]:.5g} Å³, {len(outside)} of {len(fits)} lie outside: "
            f"{places}; start near {fits[0].volume:.5g} Å³, or take a wider range (volumes=, strain=)"
        )
