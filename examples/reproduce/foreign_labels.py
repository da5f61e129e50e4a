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
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from ase.neighborlist import build_neighbor_list, natural_cutoffs
from labels_pyscf import hot, label, n_kept
from scipy.sparse.csgraph import breadth_first_order
from tqdm import tqdm

from blipcalc.data.labels import read_labelled

FOREIGN = ("NH3", "CH3OH", "HCOOH", "CH3CN", "CH3COCH3")
SEEN = ("ethanol", "malonaldehyde", "benzene", "uracil", "toluene")


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
    done = n_kept(arguments.output, frames)
    for atoms in tqdm(frames[done:], initial=done, total=len(frames)):
        write(arguments.output, label(atoms, "pbe"), append=True)
    for atoms in read(arguments.output, ":"):
        if atoms.info["kind"] == "check":
            difference = np.abs(atoms.get_forces() - atoms.arrays["published"]).mean()
            print(f"{atoms.info['molecule']}: {1e3 * difference:.1f} meV/Å from the published forces")


if __name__ == "__main__":
    main()
