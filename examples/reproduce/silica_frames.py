"""Frames for the bundled silica model: six zeolites to learn from, two that it never sees.

    python examples/reproduce/silica_frames.py DATA_FOLDER/si_zeo22 runs/silica-frames

Of each topology in :data:`SEEN` 333 frames to train on, and 100 others to test; of each in :data:`UNSEEN` 200 to test.  The
files hold snapshots of NVT and NPT runs at 298 to 1,000 K in no order, so a test frame of a topology that was seen may be
a few hundred femtoseconds from one in training: what the unseen ones show is the honest figure.  PBE-D3BJ, eV, eV/Å; no stress.

Data: Si-ZEO22, CC0.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

SEEN, UNSEEN = ("abw", "bct", "dft", "edi", "gis", "nab"), ("cha", "sod")
TRAIN, TEST, TEST_UNSEEN = 333, 100, 200


def frames(path: Path, picked: np.ndarray) -> list[Atoms]:
    """Some frames of a file, with their labels."""
    found = []
    with np.load(path) as data:
        for k in picked:
            atoms = Atoms(data["symbols"].tolist(), positions=data["positions"][k], cell=data["cells"][k], pbc=True)
            forces = data["forces"][k].astype(float)
            atoms.calc = SinglePointCalculator(atoms, energy=float(data["energies"][k]), forces=forces)
            atoms.info["frame"] = int(k)
            found.append(atoms)
    return found


def split(path: Path, topology: str) -> tuple[np.ndarray, np.ndarray]:
    """Which frames of a file serve to train, and which to test."""
    with np.load(path) as data:
        order = np.random.default_rng(0).permutation(len(data["energies"]))
    n_train, n_test = (TRAIN, TEST) if topology in SEEN else (0, TEST_UNSEEN)
    return np.sort(order[:n_train]), np.sort(order[n_train : n_train + n_test])


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    target.mkdir(parents=True, exist_ok=True)
    for topology in SEEN + UNSEEN:
        path = source / f"{topology}.npz"
        for kind, picked in zip(("train", "test"), split(path, topology), strict=True):
            if len(picked):
                write(target / f"{kind}_{topology}.extxyz", frames(path, picked))


if __name__ == "__main__":
    main()
