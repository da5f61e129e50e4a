"""Atoms on springs with known laws, for thermostats: pairs with a quartic part, which makes them chaotic, and springs to places.

    U = Σ_pairs ½ k (d - d₀)² + q (d - d₀)⁴  +  Σ_i ½ s_i |r_i - h_i|²

Metropolis sampling of the same energy gives the configurations that a thermostat must reach, with the weight that belongs to the
momenta that were integrated out:

| run | weight |
|---|---|
| all coordinates, or some atoms fixed, or rigid pairs of atoms | 1 |
| a free molecule whose momentum and angular momentum are zero | det(moment of inertia)^(-1/2) |
| a crystal under a barostat, in scaled coordinates | V^N, or V^(N - 1) where the momentum is zero (Martyna et al. 1994) |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list

STIFF, QUARTIC = 4.0, 60.0


@dataclass(frozen=True)
class Springs:
    """Energies of many structures at once.

    i, j : (P,) pairs; shift : (P, 3) cell counts; length : (P,) d₀, Å; place : (N,) s, eV/Å²; home : (N, 3) h, Å
    """

    i: np.ndarray
    j: np.ndarray
    shift: np.ndarray
    length: np.ndarray
    place: np.ndarray
    home: np.ndarray

    def bonds(self, positions, cell):
        """(..., P, 3) vectors from i to j."""
        return positions[..., self.j, :] - positions[..., self.i, :] + self.shift @ cell

    def energy(self, positions, cell=np.zeros((3, 3))):
        """(...) eV of structures (..., N, 3)."""
        stretch = np.linalg.norm(self.bonds(positions, cell), axis=-1) - self.length
        tied = 0.5 * (self.place * ((positions - self.home) ** 2).sum(axis=-1)).sum(axis=-1)
        return (0.5 * STIFF * stretch**2 + QUARTIC * stretch**4).sum(axis=-1) + tied


class SpringCalculator(Calculator):
    """Energy, forces and stress of one structure; ``factor`` scales all of them."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, springs, factor=1.0):
        super().__init__()
        self.springs, self.factor = springs, factor
        # (N, P) +1 where a pair begins, -1 where it ends
        atom = np.arange(len(springs.home))[:, None]
        self.ends = (springs.i == atom).astype(float) - (springs.j == atom)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        s, r = self.springs, self.atoms.positions
        vectors = s.bonds(r, self.atoms.cell.array)
        distance = np.sqrt((vectors * vectors).sum(axis=1))
        stretch, away = distance - s.length, r - s.home
        pull = ((STIFF * stretch + 4 * QUARTIC * stretch**3) / distance)[:, None] * vectors
        energy = float(
            (0.5 * STIFF * stretch**2 + QUARTIC * stretch**4).sum() + 0.5 * s.place @ (away * away).sum(axis=1)
        )
        forces = self.ends @ pull - s.place[:, None] * away
        self.results = {
            "energy": self.factor * energy,
            "free_energy": self.factor * energy,
            "forces": self.factor * forces,
        }
        if self.atoms.pbc.all():
            virial = self.factor * (vectors.T @ pull) / self.atoms.get_volume()
            self.results["stress"] = virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def springs_of(atoms, cutoff, place=0.0):
    """Springs between all pairs closer than a cutoff, at rest as they are; place : stiffness of the places, varied by atom."""
    i, j, shift, distance = neighbor_list("ijSd", atoms, cutoff)
    once = (i < j) | ((i == j) & (shift @ [9, 3, 1] > 0))
    varied = place * (1.0 + 0.5 * np.sin(np.arange(len(atoms))))
    return Springs(i[once], j[once], shift[once].astype(float), distance[once], varied, atoms.positions.copy())


def cluster(place):
    """Eight atoms of three kinds; free where place is 0."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    positions = 1.5 * corners + 0.2 * np.random.default_rng(3).normal(size=(8, 3))
    atoms = Atoms("C3N3O2", positions)
    return atoms, springs_of(atoms, 2.2, place)


def crystal():
    """A cubic cell of four atoms, each with twelve neighbours: few, so that a wrong number of freedoms is seen."""
    corners = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], float)
    atoms = Atoms("Ar4", 2.2 * corners, cell=[4.4] * 3, pbc=True)
    return atoms, springs_of(atoms, 3.6)


def metropolis(start, energy, log_weight, move, kt, rng, *, chains=300, burn=300, sweeps=600):
    """(sweeps, chains) energies, and states, of independent Metropolis chains.

    start : (chains, …); move : (state, size, rng) -> state, symmetric; its size is set during the burn-in
    """
    state = np.array(start)
    now = energy(state)
    density = log_weight(state) - now / kt
    size, found, states = 0.1, [], []
    for sweep in range(burn + sweeps):
        new = move(state, size, rng)
        e = energy(new)
        d = log_weight(new) - e / kt
        accepted = np.log(rng.random(len(d))) < d - density
        state = np.where(accepted.reshape(-1, *[1] * (state.ndim - 1)), new, state)
        now, density = np.where(accepted, e, now), np.where(accepted, d, density)
        if sweep < burn:
            size *= np.exp(accepted.mean() - 0.35)
        else:
            found.append(now)
            states.append(state)
    return np.array(found), np.array(states)


def inertia_weight(masses):
    """log det(I)^(-1/2) of structures (..., N, 3)."""

    def log_weight(positions):
        r = positions - (masses[:, None] * positions).sum(axis=-2, keepdims=True) / masses.sum()
        second = np.einsum("n,...ni,...nj->...ij", masses, r, r)
        inertia = np.trace(second, axis1=-2, axis2=-1)[..., None, None] * np.eye(3) - second
        return -0.5 * np.linalg.slogdet(inertia)[1]

    return log_weight
