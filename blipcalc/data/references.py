"""Reference energies per element and energy scale of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from blipcalc.data.labels import labels


def fit_references(frames: Sequence[Atoms]) -> dict[int, float]:
    """Return the least-squares energy per element: E ≈ Σ_z n_z E0_z, eV.

    Where compositions do not determine each element (such as for a single molecule) this is the solution nearest to the mean
    energy per atom; for a single molecule it equals that for every element, as in Willow, …, Myung, arXiv 2510.03046.  These
    are no energies of isolated atoms.
    """
    species = sorted({int(z) for atoms in frames for z in atoms.numbers})
    counts = np.array([[np.count_nonzero(atoms.numbers == z) for z in species] for atoms in frames], dtype=np.float64)
    energies = np.array([labels(atoms)[0] for atoms in frames])
    mean = energies.sum() / counts.sum()
    deviation, *_ = np.linalg.lstsq(counts, energies - mean * counts.sum(axis=1), rcond=None)
    return dict(zip(species, (mean + deviation).tolist(), strict=True))


def force_rms(frames: Sequence[Atoms]) -> float:
    """Return the root mean square of the force components, eV/Å; times 1 Å it is the scale of the network's energies."""
    total = sum(float((labels(atoms)[1] ** 2).sum()) for atoms in frames)
    count = sum(3 * len(atoms) for atoms in frames)
    return max(float(np.sqrt(total / count)), 1e-3)
