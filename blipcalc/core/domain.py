"""Domain of a model: tests of a structure against the training data that need no variance.

Variances can fall while errors rise (Kurniawan et al. 2025, arXiv 2508.06456).  Two tests need no variance: whether the
environment of an atom, in the features of the network, is like those of the training data, and whether two atoms are closer than
any in the data.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from blipcalc.core.contracts import Network
from blipcalc.core.graph import Graph
from blipcalc.core.neighbors import search
from blipcalc.errors import DataError
from blipcalc.process import plain_state
from blipcalc.stats.ellipsoid import Ellipsoid, fit_ellipsoid

#: quantile over frames of the closest distance
CLOSEST = 0.001
#: Å, cutoff of close pairs; number of atoms in a batch
NEAR, BATCH_ATOMS = 3.0, 200


@dataclass(frozen=True)
class Domain:
    """Domain of the training frames: ellipsoids of their features and their closest distances.

    ellipsoids : {Z: ellipsoid of the features of atoms of that element}
    closest : {"C-H": Å}, see :func:`closest_distances`
    n_frames, n_atoms : number of frames, and {Z: number of atoms}
    """

    ellipsoids: Mapping[int, Ellipsoid]
    closest: Mapping[str, float]
    n_frames: int
    n_atoms: Mapping[int, int]

    @property
    def hash(self) -> str:
        """SHA-256, unchanged by a model file, which stores roots in float32."""
        digest = hashlib.sha256()
        for z, ellipsoid in sorted(self.ellipsoids.items()):
            digest.update(f"{z}".encode() + ellipsoid.centre.tobytes() + ellipsoid.root.astype(np.float32).tobytes())
        return digest.hexdigest()

    def distance(self, species: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Return (N,) distances from the training data of atoms of elements (N,) with features (N, F).

        They are about 1 within the data, and NaN for other elements.
        """
        found = np.full(len(species), np.nan)
        for z, ellipsoid in self.ellipsoids.items():
            chosen = species == z
            if chosen.any():
                found[chosen] = ellipsoid.distance(features[chosen])
        return found


@plain_state()
def latent_features(network: Network, graph: Graph) -> np.ndarray | None:
    """Return (N, F) float64 invariant features of all atoms from the network without weight noise; None where it gives none."""
    reference = next(network.parameters())
    graph = graph if graph.positions.device == reference.device else graph.clone().to(str(reference.device))
    with torch.no_grad():
        features = network(graph.tensors(reference.dtype)).features
    return None if features is None else features.double().cpu().numpy()


@plain_state()
def fit_domain(network: Network, frames: Sequence[Atoms]) -> Domain | None:
    """Return the domain of frames; None for a network that gives no features.

    raises : DataError where no element has two atoms
    """
    network = copy.deepcopy(network).cpu().double().eval()
    features, species = [], []
    for batch in _batches(frames):
        graph = Graph.collate([Graph.from_atoms(atoms, network.cutoff) for atoms in batch])
        found = latent_features(network, graph)
        if found is None:
            return None
        features.append(found)
        species.append(np.concatenate([atoms.numbers for atoms in batch]))
    points, z = np.concatenate(features), np.concatenate(species)
    counts = {int(k): int((z == k).sum()) for k in np.unique(z)}
    if max(counts.values()) < 2:
        raise DataError(f"expected two atoms of an element or more, got {counts} (Z: atoms) in {len(frames)} frames")
    ellipsoids = {k: fit_ellipsoid(points[z == k]) for k, n in counts.items() if n > 1}
    return Domain(ellipsoids, closest_distances(frames), len(frames), counts)


def _batches(frames: Sequence[Atoms]) -> list[list[Atoms]]:
    """Split frames, in order, into batches of limited numbers of atoms."""
    found: list[list[Atoms]] = [[]]
    for atoms in frames:
        if found[-1] and sum(map(len, found[-1])) + len(atoms) > BATCH_ATOMS:
            found.append([])
        found[-1].append(atoms)
    return found


def closest_distances(frames: Sequence[Atoms], cutoff: float = NEAR) -> dict[str, float]:
    """Return {"C-H": Å}, the 0.1 % quantile over frames of the shortest distance of each element pair within the cutoff."""
    shortest: dict[str, list[float]] = {}
    for atoms in frames:
        i, j, distance = close_pairs(atoms, cutoff)
        kinds = np.sort(np.stack([atoms.numbers[i], atoms.numbers[j]]), axis=0)
        for a, b in np.unique(kinds, axis=1).T:
            least = distance[(kinds[0] == a) & (kinds[1] == b)].min()
            shortest.setdefault(pair_name(a, b), []).append(float(least))
    return {pair: float(np.quantile(values, CLOSEST)) for pair, values in sorted(shortest.items())}


def close_pairs(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return indices i ≤ j and distances (Å) of all pairs within a cutoff, each pair once."""
    if not cutoff > 0:
        return np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty(0)
    cell, positions = atoms.cell.array, atoms.positions
    (i, j), shifts = search(positions, cell, atoms.pbc, cutoff)
    d = np.linalg.norm(positions[i] - positions[j] + shifts @ cell, axis=1)
    once = (i <= j) & (d < cutoff)
    return i[once], j[once], d[once]


def pair_name(a: int, b: int) -> str:
    """Return the symbols of two elements in alphabetical order, such as ``C-H``."""
    return "-".join(sorted((chemical_symbols[a], chemical_symbols[b])))
