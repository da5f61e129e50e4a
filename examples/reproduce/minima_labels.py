"""Minima, normal modes and torsions by DFT, to hold error bars against: PBE/def2-SVP as in the training data.

    pip install pyscf
    python examples/reproduce/minima_labels.py ethanol malonaldehyde benzene

Of each molecule: the minimum next to that of the bundled model (BFGS to 0.002 eV/Å), the Hessian there by central differences of
forces (0.01 Å), and relaxed scans of the torsions named in :data:`TORSIONS`.  Minutes to an hour for each; a part that is in
the file already is not done again.  What comes out is kept in ``minima/NAME.json``, with its input.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixInternals
from ase.optimize import BFGS
from labels_pyscf import label

from blipcalc import BayesianCalculator
from blipcalc.bundle import starting_structure
from blipcalc.sealed import write_atomically

FOLDER = Path(__file__).parent / "minima"
FMAX, STEP = 0.002, 0.01
#: {molecule: {name: (four atoms, angles in °)}}
TORSIONS = {
    "ethanol": {
        "hydroxyl": ((1, 0, 2, 8), tuple(range(0, 181, 30))),
        "methyl": ((2, 0, 1, 5), (60, 80, 100, 120)),
    },
}


class PBE(Calculator):
    """Energy and forces of one geometry after the other."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """As :func:`labels_pyscf.label` gives them."""
        super().calculate(atoms, properties, system_changes)
        done = label(Atoms(self.atoms.numbers, self.atoms.positions), "pbe")
        self.results = dict(done.calc.results)


def minimum(atoms: Atoms) -> dict:
    """From the minimum of the bundled model, which saves most of the way."""
    near = atoms.copy()
    near.calc = BayesianCalculator("rmd17", surface="centre", n_draws=8)
    BFGS(near, logfile=None).run(fmax=FMAX)
    atoms.positions = near.positions
    BFGS(atoms, logfile="-").run(fmax=FMAX)
    return {"positions": atoms.positions.tolist(), "energy": atoms.get_potential_energy()}


def hessian(atoms: Atoms) -> list:
    rows, home = [], atoms.positions.copy()
    for k in range(home.size):
        sides = []
        for sign in (1, -1):
            atoms.positions = home
            atoms.positions.reshape(-1)[k] += sign * STEP
            sides.append(atoms.get_forces().ravel())
        rows.append((sides[1] - sides[0]) / (2 * STEP))
        print(f"hessian {k + 1} of {home.size}", flush=True)
    atoms.positions = home
    found = np.array(rows)
    return (0.5 * (found + found.T)).tolist()


def torsion(atoms: Atoms, four: tuple, angles: tuple) -> list:
    """Of each angle the energy and the positions, everything else relaxed."""
    found = []
    for angle in angles:
        atoms.set_constraint()
        moving = beyond(atoms, four[1], four[2])
        atoms.set_dihedral(*four, angle, indices=moving)
        atoms.set_constraint(FixInternals(dihedrals_deg=[[angle, list(four)]]))
        BFGS(atoms, logfile="-").run(fmax=5 * FMAX, steps=60)
        energy = atoms.get_potential_energy()
        found.append({"angle": angle, "energy": energy, "positions": atoms.positions.tolist()})
    return found


def beyond(atoms: Atoms, fixed: int, turned: int) -> list[int]:
    """Atoms on the side of ``turned`` of the bond between the two."""
    distances = atoms.get_all_distances()
    bonded = distances < np.where((atoms.numbers[:, None] == 1) | (atoms.numbers == 1), 1.3, 1.8)
    found, queue = {turned}, [turned]
    while queue:
        for j in np.flatnonzero(bonded[queue.pop()]):
            if j != fixed and j not in found:
                found.add(int(j))
                queue.append(int(j))
    return sorted(found)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:]:
        path = FOLDER / f"{name}.json"
        kept = json.loads(path.read_text()) if path.exists() else {"level": "PBE/def2-SVP, density fitting, grid 4"}

        def keep(part: str, value: object, path: Path = path, kept: dict = kept) -> None:
            kept[part] = value
            write_atomically(path, json.dumps(kept).encode())

        atoms = starting_structure(name)
        keep("numbers", atoms.numbers.tolist())
        atoms.calc = PBE()
        if "minimum" not in kept:
            keep("minimum", minimum(atoms))
        atoms.positions = kept["minimum"]["positions"]
        if "hessian" not in kept:
            keep("hessian", hessian(atoms))
        for torsion_name, (four, angles) in TORSIONS.get(name, {}).items():
            if torsion_name not in kept.get("torsions", {}):
                atoms.set_constraint()
                atoms.positions = kept["minimum"]["positions"]
                done = {"atoms": four, "points": torsion(atoms, four, angles)}
                keep("torsions", kept.get("torsions", {}) | {torsion_name: done})


if __name__ == "__main__":
    main()
