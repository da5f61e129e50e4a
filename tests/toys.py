"""Small potentials whose frequencies, dispersions and barriers are known in closed form."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator


class Toy(Calculator):
    """Energy and gradient from a function of the structure."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, function):
        super().__init__()
        self.function = function

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy, gradient = self.function(self.atoms)
        self.results = {"energy": float(energy), "forces": -np.asarray(gradient, dtype=float)}


def springs(bonds):
    """Harmonic bonds {(i, j): (k, length)}."""

    def function(atoms):
        energy, gradient = 0.0, np.zeros((len(atoms), 3))
        for (i, j), (k, length) in bonds.items():
            d = atoms.positions[j] - atoms.positions[i]
            r = np.linalg.norm(d)
            energy += 0.5 * k * (r - length) ** 2
            pull = k * (r - length) * d / r
            gradient[j] += pull
            gradient[i] -= pull
        return energy, gradient

    return function


def pair(potential):
    """A dimer: r -> (E, dE/dr)."""

    def function(atoms):
        d = atoms.positions[1] - atoms.positions[0]
        r = np.linalg.norm(d)
        energy, slope = potential(r)
        return energy, np.outer([-1, 1], slope * d / r)

    return function


def plane(potential):
    """One atom in a potential fixed in space: (x, y) -> (E, dE/dx, dE/dy); z is held by a spring."""

    def function(atoms):
        x, y, z = atoms.positions[0]
        energy, dx, dy = potential(x, y)
        return energy + 0.5 * 50 * z**2, np.array([[dx, dy, 50 * z]])

    return function


def chain(constants, length):
    """Springs between neighbours along x, in all three directions alike: constants repeat along the chain, so do atoms."""

    def function(atoms):
        n = len(atoms)
        stretch = np.roll(atoms.positions, -1, axis=0) - atoms.positions
        stretch[-1] += atoms.cell.array[0]
        stretch[:, 0] -= length
        k = np.tile(constants, n // len(constants))[:, None]
        pull = k * stretch
        return 0.5 * (pull * stretch).sum(), np.roll(pull, 1, axis=0) - pull

    return function


def calculator(functions):
    """Of the mean of functions (atoms -> energy, gradient), one for each draw."""
    return BayesianCalculator(committee([Toy(function) for function in functions]), raw=True)


@pytest.fixture(scope="session")
def toys():
    return SimpleNamespace(springs=springs, pair=pair, plane=plane, chain=chain, calculator=calculator)
