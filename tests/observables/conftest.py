"""Ensembles of pair potentials, whose derived quantities are known draw by draw."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential

from blipcalc.adapters.committee import committee
from blipcalc.calculator import BayesianCalculator

#: relative spreads of ε and σ
SPREADS = 0.02, 0.005


class LJEnsemble(NamedTuple):
    """Depths (K,) eV, lengths (K,) Å, and the calculator."""

    epsilon: np.ndarray
    sigma: np.ndarray
    calculator: BayesianCalculator


def lennard_jones(epsilon, sigma):
    """Cutoff ∝ σ."""
    return LennardJones(epsilon=epsilon, sigma=sigma, rc=3 * sigma, ro=2 * sigma, smooth=True)


@pytest.fixture(scope="module")
def lj():
    """Four members whose ε and σ vary independently: sample spreads as above, sample covariance zero."""
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)
    epsilon, sigma = 0.0104 * (1 + SPREADS[0] * signs[:, 0]), 3.4 * (1 + SPREADS[1] * signs[:, 1])
    members = [lennard_jones(e, s) for e, s in zip(epsilon, sigma, strict=True)]
    return LJEnsemble(epsilon, sigma, BayesianCalculator(committee(members), raw=True))


@pytest.fixture
def argon(lj):
    """Primitive fcc cell near its minimum."""
    atoms = bulk("Ar", "fcc", a=5.26)
    atoms.calc = lj.calculator
    return atoms


class MorseEnsemble(NamedTuple):
    """Functions that make each member anew, and the calculator of all."""

    members: list
    calculator: BayesianCalculator


@pytest.fixture(scope="module")
def morse():
    """Three members that differ in shape, not only in scale: stiffness ρ0 and length."""

    def member(rho0, r0):
        return lambda: MorsePotential(epsilon=0.3, r0=r0, rho0=rho0, rcut1=1.6, rcut2=2.2)

    members = [member(5.7, 2.52), member(6.0, 2.55), member(6.3, 2.57)]
    return MorseEnsemble(members, BayesianCalculator(committee([make() for make in members]), raw=True))
