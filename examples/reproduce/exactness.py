"""Forces and stress of the bundled model against central differences, and what rotations and permutations change.

    python examples/reproduce/exactness.py

Float64, mean surface of four draws: a frame of each rMD17 molecule, rattled, and ethanol in a triclinic cell of 6 Å.
"""

import numpy as np
from ase import Atoms

from blipcalc import BayesianCalculator
from blipcalc.files.bundled import MOLECULES, starting_structure

STEP = 1e-4  # Å, or strain; central differences of fourth order


def slope(energy, step):
    """Derivative at zero of a function of one displacement."""
    return (8 * (energy(step) - energy(-step)) - (energy(2 * step) - energy(-2 * step))) / (12 * step)


def force_error(calc, atoms, rng, n=6):
    """Largest error of ``n`` force components, eV/Å."""
    forces, worst = calc.get_property("forces", atoms), 0.0
    for a, i in zip(rng.integers(0, len(atoms), n), rng.integers(0, 3, n), strict=True):

        def energy(d, a=a, i=i):
            moved = atoms.copy()
            moved.positions[a, i] += d
            return calc.get_property("energy", moved)

        worst = max(worst, abs(-slope(energy, STEP) - forces[a, i]))
    return worst


def stress_error(calc, atoms):
    """Largest error of the six stress components, eV/Å³."""
    stress, worst = calc.get_property("stress", atoms), 0.0
    for k, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):

        def energy(d, i=i, j=j):
            strain = np.eye(3)
            strain[i, j] += d / 2
            strain[j, i] += d / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            return calc.get_property("energy", strained)

        worst = max(worst, abs(slope(energy, STEP) / atoms.get_volume() - stress[k]))
    return worst


def covariances(calc, atoms):
    """Energy (eV), forces (eV/Å) and their covariance, (n, 3, 3) (eV/Å)²."""
    forces = calc.get_property("forces", atoms)
    calc.get_property("atom_std", atoms)
    return calc.get_property("energy", atoms), forces, calc.prediction.forces_cov


def invariance_error(calc, atoms, rng):
    """Largest changes of energy, forces and covariance under a rotation, a reflection, a translation and a permutation."""
    energy, forces, cov = covariances(calc, atoms)
    turn, order = np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.permutation(len(atoms))
    moved = Atoms(atoms.numbers, atoms.positions @ turn.T + rng.normal(size=3))[order]
    e, f, c = covariances(calc, moved)
    turned = (turn @ cov @ turn.T)[order]
    return abs(e - energy), np.abs(f - (forces @ turn.T)[order]).max(), np.abs(c - turned).max()


def main():
    rng = np.random.default_rng(0)
    calc = BayesianCalculator("rmd17", n_draws=4, surface="mean", raw=True, device="cpu")
    print("| | force (eV/Å) | energy (eV) | forces (eV/Å) | covariance ((eV/Å)²) |", "|---" * 5 + "|", sep="\n")
    for molecule in MOLECULES:
        atoms = starting_structure(molecule)
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        changes = " | ".join(f"{x:.0e}" for x in invariance_error(calc, atoms, rng))
        print(f"| {molecule} | {force_error(calc, atoms, rng):.0e} | {changes} |", flush=True)
    crystal = starting_structure("ethanol")
    crystal.set_cell([[6.0, 0.3, 0.0], [0.0, 6.2, 0.4], [0.5, 0.0, 5.8]])
    crystal.pbc = True
    print(
        f"ethanol crystal: force {force_error(calc, crystal, rng):.0e} eV/Å, stress {stress_error(calc, crystal):.0e} eV/Å³"
    )


if __name__ == "__main__":
    main()
