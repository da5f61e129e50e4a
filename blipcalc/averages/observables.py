"""Define observables of frames: energies, lengths, angles, distributions, densities, or any function of a structure.

| name | unit | |
|---|---|---|
| ``energy``, ``energy_per_atom`` | eV | potential energy; on draw k that of draw k |
| ``volume`` | Å³ | |
| ``density`` | g/cm³ | |
| ``distance:i,j`` | Å | atoms from 0 on, nearest images |
| ``angle:i,j,k`` | ° | at j |
| ``distribution:i,j[:low,high[,bins]]`` | 1/Å | probability density of a distance |
| ``rdf:A-B[:r_max[,bins]]`` | | radial distribution function of two elements, see :func:`rdf` |
| ``msd:A[:lag_ps]``, ``diffusion:A[:lag_ps]`` | Å², Å²/ps | of an element, or ``all``: :mod:`blipcalc.averages.diffusion` |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.data import atomic_numbers
from ase.geometry import get_angles, get_distances
from numpy.typing import ArrayLike

from blipcalc.core.neighbors import neighbor_pairs
from blipcalc.errors import ConfigurationError, DataError
from blipcalc.settings import number, whole

Array = np.ndarray
#: default range in Å and number of bins of a radial distribution function
R_MAX, BINS = 6.0, 120
#: g/cm³ of one amu/Å³
GRAMS_PER_CM3 = units._amu * 1e27


@dataclass(frozen=True)
class Axis:
    """Axis of an array: values (bins,), their name and unit."""

    values: Array
    name: str
    unit: str


@dataclass(frozen=True)
class Observable:
    """Function of one frame, with name and unit.

    name, unit : of the value
    function : a structure -> number or array, of the same shape for every frame
    on_draws : (value, (K,) eV E_k - E, number of atoms) -> (K, …), for an observable that differs between draws
    axis : of an array
    """

    name: str
    unit: str
    function: Callable[[Atoms], ArrayLike]
    on_draws: Callable[[Array, Array, int], ArrayLike] | None = None
    axis: Axis | None = None


def energy(*, per_atom: bool = False) -> Observable:
    """Return the observable potential energy, as stored in a frame's calculator."""

    def of(atoms: Atoms) -> float:
        if atoms.calc is None:
            raise DataError("a frame has no energy; read the trajectory with blipcalc.read")
        return atoms.get_potential_energy() / (len(atoms) if per_atom else 1)

    return Observable(
        "energy_per_atom" if per_atom else "energy",
        "eV",
        of,
        lambda value, deviations, n_atoms: value + deviations / (n_atoms if per_atom else 1),
    )


def volume() -> Observable:
    """Return the observable volume of the cell."""
    return Observable("volume", "Å³", _volume)


def density() -> Observable:
    """Return the observable mass density: mass of all atoms over the volume of the cell."""
    return Observable("density", "g/cm³", lambda atoms: atoms.get_masses().sum() / _volume(atoms) * GRAMS_PER_CM3)


def distance(i: int, j: int) -> Observable:
    """Return the observable distance of two atoms, to the nearest image."""
    return Observable(f"distance:{i},{j}", "Å", lambda atoms: np.linalg.norm(_between(atoms, i, j)))


def angle(i: int, j: int, k: int) -> Observable:
    """Return the observable angle at atom j, between nearest images."""

    def of(atoms: Atoms) -> float:
        return float(get_angles(_between(atoms, j, i)[None], _between(atoms, j, k)[None])[0])

    return Observable(f"angle:{i},{j},{k}", "°", of)


def distribution(i: int, j: int, low: float = 0.5, high: float = 4.0, bins: int = 140) -> Observable:
    """Return the observable probability density of a distance; its integral is the probability of the range."""
    edges = _edges(low, high, bins)

    def of(atoms: Atoms) -> Array:
        counts, _ = np.histogram(np.linalg.norm(_between(atoms, i, j)), edges)
        return counts / np.diff(edges)

    return Observable(f"distribution:{i},{j}", "1/Å", of, axis=Axis(_middles(edges), "r", "Å"))


def rdf(a: str, b: str, r_max: float = R_MAX, bins: int = BINS) -> Observable:
    """Return the observable radial distribution function of two elements in a cell periodic in three directions.

        g(r) = V n(r) / [N_a (N_b - δ_ab) v(r)]

    | symbol | meaning |
    |---|---|
    | n(r) | ordered pairs (an atom of a, another of b, all images) in the shell |
    | v(r) | volume of the shell, 4π/3 (r₂³ - r₁³) |
    | V | volume of the cell of that frame |

    An ideal gas of any N has g = 1; coordination numbers are (N_b - δ_ab) / V ∫ g 4πr² dr.

    a, b : symbols; r_max : Å, may exceed half of the cell, where images are correlated
    raises : ConfigurationError for an unknown element; DataError for frames without cell or without such atoms
    source : Allen and Tildesley 2017, section 8.2
    """
    for symbol in (a, b):
        if symbol not in atomic_numbers:
            raise ConfigurationError(f"rdf of {symbol!r}; expected the symbols of two elements, such as rdf:O-H")
    edges = _edges(0.0, r_max, bins)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)

    def of(atoms: Atoms) -> Array:
        if not atoms.pbc.all():
            raise DataError(
                f"rdf:{a}-{b} needs a cell periodic in three directions; pbc is {atoms.pbc.tolist()}; for molecules: distribution"
            )
        is_a, is_b = (atoms.numbers == atomic_numbers[symbol] for symbol in (a, b))
        n_pairs = int(is_a.sum()) * (int(is_b.sum()) - (a == b))
        if n_pairs < 1:
            raise DataError(f"rdf:{a}-{b}: {atoms.get_chemical_formula()} has no such pair")
        (source, target), shifts = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff=float(edges[-1]))
        chosen = is_a[target] & is_b[source]
        vectors = atoms.positions[source] - atoms.positions[target] + shifts @ atoms.cell.array
        counts, _ = np.histogram(np.linalg.norm(vectors[chosen], axis=1), edges)
        return _volume(atoms) * counts / (n_pairs * shells)

    return Observable(f"rdf:{a}-{b}", "", of, axis=Axis(_middles(edges), "r", "Å"))


def _volume(atoms: Atoms) -> float:
    if not atoms.pbc.all():
        raise DataError(f"a volume needs a cell periodic in three directions; pbc is {atoms.pbc.tolist()}")
    return atoms.get_volume()


def _between(atoms: Atoms, i: int, j: int) -> Array:
    """Return the vector (3,) Å from atom i to the nearest image of j."""
    if max(i, j) >= len(atoms) or min(i, j) < 0 or i == j:
        raise DataError(f"atoms {i} and {j} of a frame of {len(atoms)}; expected two of them, counted from 0")
    vectors, _ = get_distances(atoms.positions[[i]], atoms.positions[[j]], cell=atoms.cell, pbc=atoms.pbc)
    return vectors[0, 0]


def _edges(low: float, high: float, bins: int) -> Array:
    low = number("low", low, above=-1e-300)
    return np.linspace(low, number("high", high, above=low), whole("bins", bins, 1, what="number of bins") + 1)


def _middles(edges: Array) -> Array:
    return 0.5 * (edges[1:] + edges[:-1])
