"""Writes the starting structures that come with the package: of each rMD17 training set the frame of lowest energy.

    python examples/reproduce/starting_structures.py DATA_FOLDER/rmd17

Data: Christensen and von Lilienfeld, arXiv 2007.09593 (2020), figshare 12672038, CC0.
"""

import sys
from pathlib import Path

from ase.io import write

from blipcalc.bundle import MOLECULES, bundle_path
from blipcalc.data.labels import labels, read_labelled

folder = Path(sys.argv[1])
structures = []
for molecule in MOLECULES:
    frames = read_labelled(folder / f"rmd17_{molecule}_train_01.npz", energy_unit="kcal/mol")
    lowest = min(frames, key=lambda atoms: labels(atoms)[0]).copy()
    lowest.info = {"name": molecule}
    structures.append(lowest)
write(bundle_path("rmd17.extxyz"), structures)
