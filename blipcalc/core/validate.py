"""Checks of a structure before it is evaluated: silence is the enemy, so every refusal has a name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from blipcalc.errors import (
    CoincidentAtomsError,
    EmptyStructureError,
    NonFiniteError,
    SingularCellError,
    UnknownElementError,
)

#: Å; closer pairs are the same atom twice. The shortest bond of any molecule is 0.74 Å.
COINCIDENT_BELOW = 1e-3


def check_structure(atoms: Atoms) -> None:
    """Refuse a structure without atoms, with non-finite coordinates, or with a singular periodic cell."""
    if len(atoms) == 0:
        raise EmptyStructureError("expected at least one atom, got an empty Atoms object")
    bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
    if bad.size:
        raise NonFiniteError(
            f"positions of atoms {bad[:10].tolist()} are not finite; the step that led here was too long, or the "
            "file is damaged: go back to the last good frame"
        )
    cell = atoms.cell.array
    if not np.isfinite(cell).all():
        raise NonFiniteError(f"the cell is not finite: {cell.tolist()}")
    periodic = cell[np.asarray(atoms.pbc, dtype=bool)]
    if len(periodic):
        lengths = np.linalg.norm(periodic, axis=1)
        if (lengths < 1e-6).any() or np.linalg.matrix_rank(periodic / lengths[:, None], tol=1e-6) < len(periodic):
            raise SingularCellError(
                f"pbc={atoms.pbc.tolist()} needs independent cell vectors in the periodic directions, got "
                f"{cell.tolist()}; set the cell, or pbc=False where the structure is not periodic"
            )


def check_distances(squared: np.ndarray, edge_index: np.ndarray) -> None:
    """Refuse pairs, (E,) squared distances in Å², closer than :data:`COINCIDENT_BELOW`, naming the atoms."""
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
    """Refuse atomic numbers that the model does not know, naming them and the supported set."""
    unknown = sorted(set(np.asarray(numbers).tolist()) - set(known))
    if unknown:
        raise UnknownElementError(
            f"the model knows {', '.join(chemical_symbols[z] for z in sorted(known))}, but the structure holds "
            f"{', '.join(chemical_symbols[z] for z in unknown)}; use a model trained on these elements"
        )
