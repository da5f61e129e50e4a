"""Scan dihedral angles and distances, rigid or relaxed, and dimers, with error bands.

All points of a scan are evaluated as one batch, on the driving potential and on every draw.  In a relaxed scan everything but
the coordinate is relaxed on the driving potential; the energies of the draws are then exact at first order
(:mod:`blipcalc.properties.relaxed_energies`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.constraints import FixInternals

from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.errors import ConfigurationError, NotConvergedError, StructureError
from blipcalc.properties.comparable import surfaces_of
from blipcalc.properties.energy_curves import ZEROS, Scan, Zero
from blipcalc.properties.fragments import indices_of, pulled, side_of, turned
from blipcalc.properties.relaxed_energies import relaxed_copy
from blipcalc.settings import choice, number, several, switch
from blipcalc.stats.estimate import Estimate

TURN = 360.0
#: degrees, default of a full turn
ANGLES = tuple(range(-180, 180, 10))


def dihedral_scan(
    atoms: Atoms,
    indices: Sequence[int],
    angles: Sequence[float] | np.ndarray | None = None,
    *,
    relax: bool = False,
    zero: Zero = "lowest",
    moving: Sequence[int] | None = None,
    fmax: float = 0.01,
    steps: int = 500,
) -> Scan:
    """Return energies over a dihedral angle.

    Parameters
    ----------
    atoms : with its calculator
    indices : of the four atoms i, j, k, l; the rotation is about the bond j–k
    angles : degrees, increasing; None: a full turn in steps of ten.  If the gap from the last to the first angle is no wider than
        the widest between the points, the curve is periodic
    relax : relax everything else on the driving potential, each point from the previous one
    zero : reference of energies, see :class:`~blipcalc.properties.energy_curves.Scan`
    moving : atoms that are rotated; None: those on the side of k
    fmax, steps : of the relaxations, eV/Å

    Raises
    ------
    StructureError : indices that do not fit, a bond in a ring; ConfigurationError : angles, other arguments
    NotConvergedError : a relaxation; IncomparableError : noise per row

    Examples
    --------
    >>> scan = dihedral_scan(ethanol, (2, 1, 0, 8))
    >>> str(scan.barrier), scan.plot("torsion.png")
    """
    four = indices_of("indices", indices, atoms, 4)
    found = _points("angles", ANGLES if angles is None else angles, "degrees")
    if found[-1] - found[0] > TURN + 1e-9:
        raise ConfigurationError(
            f"angles from {found[0]:g} to {found[-1]:g}; expected one turn of {TURN:g} degrees at most"
        )
    if abs(found[-1] - found[0] - TURN) < 1e-9:
        found = found[:-1]  # same as the first point
    side = _moving(atoms, four[1], four[2], four, moving)

    def hold(angle: float) -> FixInternals:
        return FixInternals(dihedrals_deg=[[angle, four]])

    return _scan(
        atoms,
        found,
        lambda one, angle: turned(one, four, angle, side),
        hold if switch("relax", relax) else None,
        {"name": "dihedral angle", "unit": "°", "zero": choice("zero", zero, ZEROS), "period": _period(found)},
        {"fmax": fmax, "steps": steps},
    )


def distance_scan(
    atoms: Atoms,
    indices: Sequence[int],
    distances: Sequence[float] | np.ndarray,
    *,
    relax: bool = False,
    zero: Zero = "lowest",
    moving: Sequence[int] | None = None,
    fmax: float = 0.01,
    steps: int = 500,
) -> Scan:
    """Return energies over the distance of two atoms, moving the second one with all atoms bonded to it.

    distances : Å, increasing; everything else as in :func:`dihedral_scan`
    """
    two = indices_of("indices", indices, atoms, 2)
    found = _points("distances", distances, "Å", above=0.0)
    side = _moving(atoms, two[0], two[1], two, moving)

    def hold(distance: float) -> FixInternals:
        return FixInternals(bonds=[[distance, two]])

    return _scan(
        atoms,
        found,
        lambda one, distance: pulled(one, two, distance, side),
        hold if switch("relax", relax) else None,
        {"name": "distance", "unit": "Å", "zero": choice("zero", zero, ZEROS), "period": None},
        {"fmax": fmax, "steps": steps},
    )


def dimer_scan(
    symbols: str, distances: Sequence[float] | np.ndarray, calculator: Calculator, *, zero: Zero = "last"
) -> Scan:
    """Return energies of two atoms over their distance, by default relative to the last one.

    symbols : of the two, such as ``"CuAu"``; distances : Å, increasing

    raises : StructureError for another number of atoms; otherwise as :func:`dihedral_scan`
    """
    found = _points("distances", distances, "Å", above=0.0)
    try:
        atoms = Atoms(symbols, positions=[[0, 0, 0], [found[0], 0, 0]])
    except (ValueError, KeyError, TypeError):
        raise StructureError(f"symbols={symbols!r}; expected two elements, such as 'CuAu'") from None
    atoms.calc = calculator
    return distance_scan(atoms, (0, 1), found, zero=zero, moving=[1])


def _scan(
    atoms: Atoms,
    points: np.ndarray,
    place: Callable[[Atoms, float], Atoms],
    hold: Callable[[float], FixInternals] | None,
    about: dict[str, Any],
    how: dict[str, Any],
) -> Scan:
    """Return energies at all points.

    place : (structure, point) -> the structure there; hold : point -> constraint of a relaxed scan, None for a rigid one
    about : fields of the result; how : settings of relaxations
    """
    surfaces = surfaces_of(atoms)
    structures: list[Atoms] = []
    for point in points:
        start = structures[-1] if structures and hold is not None else atoms
        moved = place(start, float(point))
        structures.append(moved if hold is None else _relaxed(surfaces, moved, atoms, hold(float(point)), how))
    found: Estimate = surfaces.energies(structures)
    kept = []
    for moved in structures:
        moved = moved.copy()
        moved.calc = None
        moved.set_constraint()
        kept.append(moved)
    return Scan(coordinate=points, energies=found, structures=tuple(kept), **about)


def _relaxed(surfaces: Surfaces, moved: Atoms, atoms: Atoms, held: FixInternals, how: dict[str, Any]) -> Atoms:
    """Return the structure relaxed with its own constraints and a fixed coordinate."""
    moved.set_constraint([*atoms.constraints, held])
    try:
        return relaxed_copy(surfaces, moved, **how)
    except ValueError as error:
        if "FixInternals" not in str(error) and "converge" not in str(error):
            raise
        raise NotConvergedError(
            f"the coordinate could not be held while relaxing ({error}); take smaller steps"
        ) from error


def _points(name: str, values: Sequence[float] | np.ndarray, unit: str, above: float = -np.inf) -> np.ndarray:
    found = [number(name, value, above=above) for value in several(name, values, f"increasing numbers in {unit}")]
    if len(found) < 4 or any(b <= a for a, b in pairwise(found)):
        raise ConfigurationError(f"{name}={found}; expected four increasing numbers or more, in {unit}")
    return np.array(found)


def _moving(atoms: Atoms, near: int, far: int, held: Sequence[int], moving: Sequence[int] | None) -> list[int]:
    """Return the moving atoms, which must include the last atom of the coordinate and not the first."""
    found = side_of(atoms, near, far) if moving is None else indices_of("moving", moving, atoms)
    if held[-1] not in found or held[0] in found:
        raise StructureError(
            f"of atoms {list(held)} the last moves and the first stays, expected; moving are {found}; take indices along bonds, "
            "or say which atoms move (moving=[...])"
        )
    return found


def _period(angles: np.ndarray) -> float | None:
    """Return 360° if the gap from the last to the first angle is no wider than the widest between them, else None."""
    gap = TURN - (angles[-1] - angles[0])
    return TURN if gap <= np.diff(angles).max() * (1 + 1e-9) else None
