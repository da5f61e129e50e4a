"""Structures from outside the training data with fresh PBE/def2-SVP labels: foreign molecules, stretched bonds, hot frames.

    pip install pyscf tblite
    python examples/reproduce/foreign_labels.py DATA_FOLDER/rmd17 --output examples/reproduce/foreign.xyz

- foreign: molecules that training never saw, and eight frames each of GFN2-xTB MD at 300 K
- stretched: rMD17 test frames, one bond drawn out by 20–40 % (the lighter end moves, with what hangs on it)
- heated: GFN2-xTB MD of rMD17 molecules at 1,000 K
- check: rMD17 test frames as they are; the difference from the published labels is printed

Density-fitted RKS, grid level 4; energies in eV, forces in eV/Å. Kept frames are not computed again.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.neighborlist import build_neighbor_list, natural_cutoffs
from pyscf import dft, gto
from scipy.sparse.csgraph import breadth_first_order
from tblite.ase import TBLite
from tqdm import tqdm

from blipcalc.data.labels import read_labelled

FOREIGN = ("NH3", "CH3OH", "HCOOH", "CH3CN", "CH3COCH3")
SEEN = ("ethanol", "malonaldehyde", "benzene", "uracil", "toluene")


def label(atoms):
    """PBE/def2-SVP energy (eV) and forces (eV/Å), as a stored result."""
    spec = [(symbol, tuple(r)) for symbol, r in zip(atoms.symbols, atoms.positions, strict=True)]
    field = dft.RKS(gto.M(atom=spec, basis="def2-svp", unit="Angstrom", verbose=0)).density_fit()
    field.xc, field.grids.level, field.conv_tol = "pbe", 4, 1e-9
    energy = field.kernel() * units.Hartree
    if not field.converged:
        raise RuntimeError(f"no self-consistent field for {atoms.info}")
    gradient = field.nuc_grad_method()
    gradient.grid_response = True
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=-gradient.kernel() * units.Hartree / units.Bohr)
    return atoms


def hot(atoms, temperature, n, rng, steps=200):
    """``n`` frames of GFN2-xTB Langevin MD, 100 fs apart after 200 fs."""
    atoms = atoms.copy()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms, 0.5 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, fixcm=False, rng=rng
    )
    frames = []
    dynamics.run(2 * steps)
    for _ in range(n):
        dynamics.run(steps)
        frames.append(Atoms(atoms.numbers, atoms.positions))
    return frames


def stretch(atoms, rng, hydrogen):
    """The frame with one bond, to hydrogen or not, drawn out by 20–40 %; None where it has no such open bond."""
    bonds = build_neighbor_list(atoms, natural_cutoffs(atoms), self_interaction=False).get_connectivity_matrix()
    bonds = (bonds + bonds.T).tolil()
    pairs = np.argwhere(np.triu(bonds.toarray()) > 0)
    for a, b in rng.permutation(pairs):
        if (1 in atoms.numbers[[a, b]]) != hydrogen:
            continue
        cut = bonds.copy()
        cut[a, b] = cut[b, a] = 0
        sides = [breadth_first_order(cut.tocsr(), start, return_predecessors=False) for start in (a, b)]
        if set(sides[0]) & set(sides[1]):
            continue  # a ring
        (fixed, _), (end, moving) = sorted(((a, sides[0]), (b, sides[1])), key=lambda s: -len(s[1]))
        away = atoms.positions[end] - atoms.positions[fixed]
        drawn = Atoms(atoms.numbers, atoms.positions)
        drawn.positions[moving] += rng.uniform(0.2, 0.4) * away
        return drawn
    return None


def structures(folder, rng):
    """All frames to label, each with what it is in ``info``."""

    def named(kind, name, frames):
        for k, atoms in enumerate(frames):
            atoms.info.update(kind=kind, molecule=name, number=k)
            yield atoms

    for name in FOREIGN:
        yield from named("foreign", name, hot(molecule(name), 300, 8, rng))
    for name in SEEN:
        test = read_labelled(folder / f"rmd17_{name}_test_01.npz", energy_unit="kcal/mol")
        check = test[0].copy()
        check.arrays["published"] = test[0].get_forces()
        yield from named("check", name, [check])
        drawn = [stretch(test[i], rng, hydrogen=k < 3) for k, i in enumerate(rng.permutation(len(test))[:4])]
        yield from named("stretched", name, [atoms for atoms in drawn if atoms is not None])
        yield from named("heated", name, hot(test[0], 1000, 4, rng))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the rMD17 files")
    parser.add_argument("--output", type=Path, default=Path("examples/reproduce/foreign.xyz"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    frames = list(structures(arguments.folder, np.random.default_rng(arguments.seed)))
    done = read(arguments.output, ":") if arguments.output.exists() else []
    for kept, atoms in zip(done, frames, strict=False):
        if not np.allclose(kept.positions, atoms.positions, atol=1e-7):
            raise SystemExit(f"{arguments.output} holds other structures; remove it to begin anew")
    for atoms in tqdm(frames[len(done) :], initial=len(done), total=len(frames)):
        write(arguments.output, label(atoms), append=True)
    for atoms in read(arguments.output, ":"):
        if atoms.info["kind"] == "check":
            difference = np.abs(atoms.get_forces() - atoms.arrays["published"]).mean()
            print(f"{atoms.info['molecule']}: {1e3 * difference:.1f} meV/Å from the published forces")


if __name__ == "__main__":
    main()
