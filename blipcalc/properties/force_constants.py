"""Compute force constants between the cells of a crystal: sum rules, nearest images, dynamical matrices.

    C(R)_{ai,bj} = ∂²E / ∂u_{0ai} ∂u_{Rbj},    C(R) = C(-R)ᵀ,    Σ_{R,b} C(R)_{ai,bj} = 0
    D(q)_{ai,bj} = (m_a m_b)^{-1/2} Σ_R C(R)_{ai,bj} e^{2πi q·R}

| symbol | variable | meaning |
|---|---|---|
| R | ``cells`` | lattice vectors, counted in cells |
| C | ``constants`` | eV/Å², rows: the displaced atom of the first cell |
| q | ``q`` | in reciprocal cell vectors |

A supercell of N cells gives only sums over images.  Each sum is assigned to the nearest image of that atom, and shared if
several are equally near (Parlinski, Li and Kawazoe 1997), which keeps D Hermitian, and the symmetry of the crystal also between
the q-points that are exact in the supercell.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms

#: Å, tolerance of equal distances to images
SAME = 1e-4


class Images(NamedTuple):
    """Nearest images of every atom.

    cells : (T, 3) lattice vectors; member : (T,) index of the supercell's cell of which each is an image; weight : (T, n, n)
    share of pair (a, b), whose sum over the images of one cell is 1
    """

    cells: np.ndarray
    member: np.ndarray
    weight: np.ndarray


def cells_of(supercell: tuple[int, int, int]) -> np.ndarray:
    """Return the cells (N, 3) of a supercell, in ASE's order of repeated atoms."""
    return np.indices(supercell).reshape(3, -1).T


def nearest_images(atoms: Atoms, supercell: tuple[int, int, int]) -> Images:
    """Return the nearest images of the atoms of all cells around those of the first, along periodic directions."""
    size = np.array(supercell)
    reach = [range(-2, 3) if periodic else range(1) for periodic in atoms.pbc]
    shifts = np.array(np.meshgrid(*reach, indexing="ij")).reshape(3, -1).T
    inner = cells_of(supercell)
    between = atoms.positions[None] - atoms.positions[:, None]
    found: dict[str, list[np.ndarray]] = {"cells": [], "member": [], "weight": []}
    for number, cell in enumerate(inner):
        candidates = cell + shifts * size
        distance = np.linalg.norm((candidates @ atoms.cell.array)[:, None, None] + between, axis=-1)
        near = distance < distance.min(axis=0) + SAME
        share = near / near.sum(axis=0)
        used = near.any(axis=(1, 2))
        found["cells"].append(candidates[used])
        found["member"].append(np.full(int(used.sum()), number))
        found["weight"].append(share[used])
    return Images(**{name: np.concatenate(rows) for name, rows in found.items()})


def with_sum_rules(constants: np.ndarray, supercell: tuple[int, int, int]) -> np.ndarray:
    """Return constants (…, N, 3n, 3n) symmetric under exchange of the two atoms, and without force under translations.

    The change is the smallest possible: translations are projected out of Σ_R C(R), in equal parts from every R.
    """
    opposite = np.ravel_multi_index(((-cells_of(supercell)) % np.array(supercell)).T, supercell)
    found = 0.5 * (constants + constants[..., opposite, :, :].swapaxes(-1, -2))
    n = found.shape[-1] // 3
    inner = np.eye(3 * n) - np.tile(np.eye(3), (n, n)) / n
    gamma = found.sum(axis=-3)
    return found + ((inner @ gamma @ inner - gamma) / len(opposite))[..., None, :, :]


def dynamical(constants: np.ndarray, images: Images, masses: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return Hermitian dynamical matrices (…, Q, 3n, 3n), eV/Å²/u, of constants (…, N, 3n, 3n) at points (Q, 3)."""
    weight = np.repeat(np.repeat(images.weight, 3, axis=1), 3, axis=2)
    phase = np.exp(2j * np.pi * np.asarray(q) @ images.cells.T)
    waves = np.einsum("qt,...tab->...qab", phase, constants[..., images.member, :, :] * weight, optimize=True)
    root = np.sqrt(np.repeat(masses, 3))
    return 0.5 * (waves + waves.swapaxes(-1, -2).conj()) / np.outer(root, root)
