"""Writes the starting structures that come with the package: of each data set the frame of lowest energy.

    python examples/reproduce/starting_structures.py DATA_FOLDER/rmd17 DATA_FOLDER/si_zeo22

Data: Christensen and von Lilienfeld, arXiv 2007.09593 (2020), figshare 12672038, CC0 (training sets); Si-ZEO22, CC0.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write

from blipcalc.data.labels import labels, read_labelled
from blipcalc.files.bundled import MOLECULES, ZEOLITES, bundle_path


def lowest_molecule(path: Path) -> Atoms:
    frames = read_labelled(path, energy_unit="kcal/mol")
    return min(frames, key=lambda atoms: labels(atoms)[0]).copy()


def lowest_zeolite(path: Path) -> Atoms:
    with np.load(path) as data:
        k = int(np.argmin(data["energies"]))
        return Atoms(data["symbols"].tolist(), positions=data["positions"][k], cell=data["cells"][k], pbc=True)


molecules, zeolites = map(Path, sys.argv[1:3])
for file, found in (
    ("rmd17.extxyz", {name: lowest_molecule(molecules / f"rmd17_{name}_train_01.npz") for name in MOLECULES}),
    ("silica.extxyz", {name: lowest_zeolite(zeolites / f"{name}.npz") for name in ZEOLITES}),
):
    for name, atoms in found.items():
        atoms.info = {"name": name}
    write(bundle_path(file), list(found.values()))
