"""Checks of a structure before its evaluation; every refusal is a named error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from blipcalc.errors import (
    CoincidentAtomsError,
    EmptyStructureError,
    ExtentError,
    NonFiniteError,
    SingularCellError,
    StructureError,
    UnknownElementError,
)

#: Å; closer pairs are one atom twice: the shortest bond of any molecule is 0.74 Å
COINCIDENT_BELOW = 1e-3
#: Å; beyond it float64 no longer resolves 1e-9 Å in a distance, and searches miss pairs
LARGEST = 1e6
#: shape per atom of the arrays that ASE knows
OWN_SHAPE = {"positions": (3,), "momenta": (3,), "numbers": (), "masses": (), "tags": (), "initial_charges": ()}


def check_structure(atoms: Atoms) -> None:
    """Raise an error for no atoms, unknown elements, non-finite coordinates, or a singular periodic cell."""
    check_arrays(atoms)
    check_all_arrays(atoms)
    if len(atoms) == 0:
        raise EmptyStructureError("expected at least one atom, got an empty Atoms object")
    if atoms.numbers.min() < 0 or atoms.numbers.max() >= len(chemical_symbols):
        raise UnknownElementError(
            f"expected atomic numbers from 0 to {len(chemical_symbols) - 1}, got {atoms.numbers.tolist()}"
        )
    bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
    if bad.size:
        raise NonFiniteError(
            f"positions of atoms {bad[:10].tolist()} are not finite; the step that led here was too long, or the "
            "file is damaged: go back to the last good frame"
        )
    cell = atoms.cell.array
    if not np.isfinite(cell).all():
        raise NonFiniteError(f"the cell is not finite: {cell.tolist()}")
    for name, values in (("positions", atoms.positions), ("the cell", cell)):
        reach = np.abs(
            np.asarray(values, dtype=np.float64)
        ).max()  # the most negative integer has no positive counterpart
        if reach > LARGEST:
            raise ExtentError(
                f"{name} reach {reach:.3g} Å; expected at most {LARGEST:g}: have atoms flown away, or are the "
                "units others than Å?"
            )
    periodic = cell[np.asarray(atoms.pbc, dtype=bool)]
    if len(periodic):
        lengths = np.linalg.norm(periodic, axis=1)
        if (lengths < 1e-6).any() or np.linalg.matrix_rank(periodic / lengths[:, None], tol=1e-6) < len(periodic):
            raise SingularCellError(
                f"pbc={atoms.pbc.tolist()} needs independent cell vectors in the periodic directions, got "
                f"{cell.tolist()}; set the cell, or pbc=False where the structure is not periodic"
            )


def check_arrays(atoms: Atoms) -> None:
    """Raise an error for positions and atomic numbers of a wrong shape or type, possible after writes to ``atoms.arrays``."""
    n = np.size(atoms.arrays["numbers"])
    for name, shape, kinds in (("positions", (n, 3), "fiu"), ("numbers", (n,), "iu")):
        values = np.asarray(atoms.arrays[name])
        if values.shape != shape or values.dtype.kind not in kinds:
            raise StructureError(
                f"atoms.arrays[{name!r}] has shape {values.shape} and type {values.dtype}; expected {shape} and "
                f"{'real numbers' if 'f' in kinds else 'whole numbers'}"
            )


def check_all_arrays(atoms: Atoms, *, for_files: bool = False) -> None:
    """Raise an error for any array without one value per atom, which ASE cannot copy.

    for_files : whether to refuse also values that ASE writes but cannot read
    """
    for name, values in atoms.arrays.items():
        expected = (len(atoms), *OWN_SHAPE.get(name, np.shape(values)[1:]))
        if np.shape(values) != expected or (for_files and np.asarray(values).dtype.kind not in "biufcU"):
            raise StructureError(
                f"atoms.arrays[{name!r}] has shape {np.shape(values)} and type {values.dtype}; expected {expected}, numbers: "
                "remove it, or set it anew"
            )


def check_motion(atoms: Atoms) -> None:
    """Raise an error for non-finite momenta and masses that are not positive."""
    n = len(atoms)
    for name, values, shape in (("momenta", atoms.get_momenta(), (n, 3)), ("masses", atoms.get_masses(), (n,))):
        values = np.asarray(values)
        if values.shape != shape or values.dtype.kind not in "fiu":
            raise StructureError(
                f"{name} have shape {values.shape} and type {values.dtype}; expected {shape}, real numbers"
            )
        if not np.isfinite(values).all():
            raise NonFiniteError(f"{name} are not finite; set them, or remove atoms.arrays[{name!r}]")
    if not (atoms.get_masses() > 0).all():
        raise StructureError("masses must be positive; set those of ghost atoms, or remove these")


def check_distances(squared: np.ndarray, edge_index: np.ndarray) -> None:
    """Raise an error, naming the atoms, for pairs with (E,) squared distances, Å², below that of :data:`COINCIDENT_BELOW`."""
    if not len(squared):
        return
    worst = int(squared.argmin())
    if not squared[worst] >= COINCIDENT_BELOW**2:
        source, target = edge_index[:, worst].tolist()
        raise CoincidentAtomsError(
            f"atoms {min(source, target)} and {max(source, target)} are {np.sqrt(squared[worst]):.2e} Å apart; "
            f"expected at least {COINCIDENT_BELOW} Å: remove the duplicate atom"
        )


def check_elements(numbers: np.ndarray, known: Sequence[int]) -> None:
    """Raise an error for atomic numbers unknown to the model, naming them and the supported set."""
    numbers = np.asarray(numbers)
    if numbers.dtype.kind not in "iu":
        raise UnknownElementError(f"expected whole atomic numbers, got {numbers.dtype}; set atoms.numbers")
    unknown = sorted(set(numbers.ravel().tolist()) - set(known))
    if unknown:
        raise UnknownElementError(
            f"the model knows {', '.join(chemical_symbols[z] for z in sorted(known))}, but the structure holds "
            f"{', '.join(map(_symbol, unknown))}; use a model trained on these elements"
        )


def _symbol(number: int) -> str:
    return chemical_symbols[number] if 0 <= number < len(chemical_symbols) else f"atomic number {number}"
