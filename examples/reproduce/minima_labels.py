"""Minima, normal modes and torsions by DFT, to hold error bars against: PBE/def2-SVP as in the training data.

    pip install pyscf
    python examples/reproduce/minima_labels.py ethanol malonaldehyde benzene

Of each molecule: the minimum next to that of the bundled model (BFGS to 0.002 eV/Å), scans of the torsions named in
:data:`TORSIONS` with all else relaxed to 0.02 eV/Å, and the Hessian in the minimum by central differences of forces (0.01 Å).
Every relaxation begins where the bundled model ends, with its Hessian, which saves most of the way.  Minutes to an hour for each;
a part that is in the file already is not done again.  What comes out is kept in ``minima/NAME.json``, with its input.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixInternals
from ase.optimize import BFGS
from labels_pyscf import label

from blipcalc import BayesianCalculator
from blipcalc.files.bundled import starting_structure
from blipcalc.files.safetensors_file import write_atomically

FOLDER = Path(__file__).parent / "minima"
FMAX, STEP = 0.002, 0.01
#: eV/Å², of the Hessian that the first step is made with
SOFTEST = 2.0
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


def relaxed(atoms: Atoms, fmax: float) -> dict:
    """The minimum under the constraints of the structure, which moves there: first by the bundled model, then by DFT."""
    near = atoms.copy()
    near.calc = BayesianCalculator("rmd17", surface="centre", n_draws=8)
    BFGS(near, logfile=None).run(fmax=fmax / 2, steps=200)
    atoms.positions = near.positions
    optimizer = BFGS(atoms, logfile="-")
    values, vectors = np.linalg.eigh(near.calc.predictor.curvature(near).matrix())
    optimizer.H0 = vectors * np.maximum(np.abs(values), SOFTEST) @ vectors.T
    if not optimizer.run(fmax=fmax, steps=60):
        raise RuntimeError(f"{atoms.get_chemical_formula()} did not come to rest")
    return {"positions": atoms.positions.tolist(), "energy": atoms.get_potential_energy()}


def hessian(atoms: Atoms, rows: list, keep: Callable[[str, object], None]) -> list:
    """Rows that are done already, and the others, each of which is kept."""
    home = atoms.positions.copy()
    for k in range(len(rows), home.size):
        sides = []
        for sign in (1, -1):
            atoms.positions = home
            atoms.positions.reshape(-1)[k] += sign * STEP
            sides.append(atoms.get_forces().ravel())
        rows.append(((sides[1] - sides[0]) / (2 * STEP)).tolist())
        keep("hessian_rows", rows)
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
        found.append({"angle": angle} | relaxed(atoms, 10 * FMAX))
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


class Kept:
    """The file of one molecule: what is done is written at once."""

    def __init__(self, name: str) -> None:
        self.name, self.path = name, FOLDER / f"{name}.json"
        start = {"level": "PBE/def2-SVP, density fitting, grid 4", "numbers": starting_structure(name).numbers.tolist()}
        self.parts = json.loads(self.path.read_text()) if self.path.exists() else start

    def keep(self, part: str, value: object) -> None:
        """Write down a part."""
        self.parts[part] = value
        write_atomically(self.path, json.dumps(self.parts).encode())

    def atoms(self) -> Atoms:
        """In the minimum, once that is known."""
        atoms = starting_structure(self.name)
        if "minimum" in self.parts:
            atoms.positions = self.parts["minimum"]["positions"]
        atoms.calc = PBE()
        return atoms


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    molecules = [Kept(name) for name in sys.argv[1:]]
    for molecule in molecules:
        if "minimum" not in molecule.parts:
            molecule.keep("minimum", relaxed(molecule.atoms(), FMAX))
    for molecule in molecules:
        for name, (four, angles) in TORSIONS.get(molecule.name, {}).items():
            done = molecule.parts.get("torsions", {})
            if name not in done:
                scan = {"atoms": four, "points": torsion(molecule.atoms(), four, angles)}
                molecule.keep("torsions", done | {name: scan})
    for molecule in molecules:
        if "hessian" not in molecule.parts:
            found = hessian(molecule.atoms(), molecule.parts.get("hessian_rows", []), molecule.keep)
            molecule.parts.pop("hessian_rows")
            molecule.keep("hessian", found)


if __name__ == "__main__":
    main()
