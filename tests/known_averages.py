"""Toy potentials whose derived quantities and averages are known draw by draw, and frames as a run stores them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.snapshot import SnapshotCalculator
from blipcalc.core.prediction import SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor

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


class Wells(Predictor):
    """K draws of harmonic wells of all atoms around their homes: ½ k_k |r - home|², the mean drives; with ``single``."""

    species, surface, has_stress, has_energies, heads, calibration = None, "mean", False, False, "none", None

    def __init__(self, home, stiffness):
        self.home, self.stiffness = home, np.asarray(stiffness, dtype=float)
        self.n_draws = len(self.stiffness)

    def __call__(self, structures, need=Need()):
        found = []
        for atoms in structures:
            d = atoms.positions - self.home
            energy, forces = 0.5 * self.stiffness * (d**2).sum(), -self.stiffness[:, None, None] * d
            arrays = SampleArrays(energy=energy, forces=forces)
            found.append(summarize(atoms.numbers, arrays, keep_samples=need.samples))
        return found

    def single(self, k):
        return Wells(self.home, self.stiffness[[k]])


@pytest.fixture
def stiffness():
    """(K,) eV/Å², 5 on average."""
    return np.array([4.0, 4.6, 5.0, 5.4, 6.0])


@pytest.fixture
def well(stiffness):
    """n -> atoms far apart, each in a well of its own."""

    def make(n=4, scale=1.0):
        atoms = Atoms(f"H{n}", positions=np.arange(n)[:, None] * np.array([[3.0, 0, 0]]))
        atoms.calc = BayesianCalculator(Wells(atoms.positions.copy(), scale * stiffness), raw=True)
        return atoms

    return make


@pytest.fixture
def offset_squares():
    """Mean of |r - home|² / 3 over the atoms of a well: kT / k on a surface of stiffness k."""

    def squares(atoms):
        return np.square(atoms.positions - np.arange(len(atoms))[:, None] * np.array([[3.0, 0, 0]])).mean()

    return squares


@pytest.fixture
def frames_of():
    """The function below."""
    return _frames_of


def _frames_of(positions, energies, deviations, cell=None, **info):
    """Frames as :func:`blipcalc.read` gives them; positions (T, n, 3), energies (T,), deviations (T, K)."""
    found = []
    for t, (places, energy, row) in enumerate(zip(positions, energies, deviations, strict=True)):
        atoms = Atoms(f"H{len(places)}", positions=places, cell=cell, pbc=cell is not None)
        atoms.info |= {"time_fs": float(t), **info}
        atoms.calc = SnapshotCalculator(atoms, {"energy": float(energy), "draw_deviations": row})
        found.append(atoms)
    return found


@pytest.fixture
def kT():
    """eV at 300 K."""
    return 300.0 * units.kB
