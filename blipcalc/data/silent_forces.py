"""Informative force labels: forces that vanish by symmetry carry no information, since every model gets them right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from blipcalc.data.labels import labels

#: eV/Å, or eV: rounding of files with few digits and of single precision; errors of potentials are hundreds of times larger
ROUNDING = 1e-5


def informing_frames(frames: Sequence[Atoms]) -> dict[int, int]:
    """Return {atomic number: number of frames with a force on that element above :data:`ROUNDING`}, for every element."""
    counts = {int(z): 0 for atoms in frames for z in np.unique(atoms.numbers)}
    for atoms in frames:
        felt = (np.abs(labels(atoms)[1]) > ROUNDING).any(axis=1)
        for z in np.unique(atoms.numbers[felt]):
            counts[int(z)] += 1
    return counts
