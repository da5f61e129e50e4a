"""How often does the true value lie inside the error bar?  Minima, normal modes and torsions of the bundled model against DFT.

    python examples/reproduce/minima_coverage.py        # reads minima/*.json of minima_labels.py; a minute or two

Each molecule is relaxed with the bundled model (centre surface, 16 draws) from the minimum of DFT.  Bonds and angles are those of
:meth:`Relaxed.bonds`; harmonic frequencies are matched by their vectors; energies are total ones, those of torsions relative to
the minimum, with all else relaxed on the surface that drives, where the draws' energies are right to first order.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixInternals
from ase.optimize import BFGS

from blipcalc import BayesianCalculator, relax
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.files.bundled import starting_structure
from blipcalc.properties import vibrations
from blipcalc.properties.normal_modes import Modes, matched, modes_of
from blipcalc.relaxation.result import Relaxed
from blipcalc.relaxation.rigid_motions import complement, rigid_motions_of
from blipcalc.stats.estimate import Estimate

FOLDER = Path(__file__).parent / "minima"
LEVELS = (0.68, 0.95)
FMAX = 0.002
#: °, below it every draw agrees, since symmetry fixes the angle, as those of benzene
FIXED = 1e-3
#: relative difference of two true values that symmetry makes the same: of the DFT references
SAME = 1e-4


def calculator() -> BayesianCalculator:
    return BayesianCalculator("rmd17", surface="centre", n_draws=16)


def geometry(relaxed: Relaxed, true: Atoms) -> dict[str, list[tuple[Estimate, float]]]:
    """Bonds and angles between bonds, each with its true value."""
    pairs = [
        tuple(int("".join(c for c in end if c.isdigit())) for end in bond.note.split("-")) for bond in relaxed.bonds()
    ]
    found = {"bonds, Å": [(relaxed.distance(i, j), true.get_distance(i, j)) for i, j in pairs], "angles, °": []}
    for k in range(len(true)):
        ends = sorted({i for pair in pairs if k in pair for i in pair} - {k})
        for a, i in enumerate(ends):
            for j in ends[a + 1 :]:
                found["angles, °"].append((relaxed.angle(i, k, j), true.get_angle(i, k, j)))
    found["angles, °"] = [pair for pair in found["angles, °"] if pair[0].std > FIXED]
    return {kind: different(pairs) for kind, pairs in found.items()}


def different(pairs: list[tuple[Estimate, float]]) -> list[tuple[Estimate, float]]:
    """One of those that symmetry makes the same, as all C-H of benzene: the same elements and the same true value."""
    found: list[tuple[Estimate, float]] = []
    for estimate, true in pairs:
        alike = [other for e, other in found if elements(e) == elements(estimate)]
        if not np.isclose(alike, true, rtol=SAME).any():
            found.append((estimate, true))
    return found


def elements(estimate: Estimate) -> str:
    return "".join(c for c in estimate.note if c.isalpha())


def frequencies(stored: dict, true: Atoms, relaxed: Atoms) -> list[tuple[Estimate, float]]:
    """Of all normal modes, cm⁻¹."""
    if "hessian" not in stored:
        return []
    found, hessian = vibrations(relaxed, fmax=FMAX), np.array(stored["hessian"])
    here, there = modes(found.atoms, found.hessian), modes(true, hessian)
    order, _ = matched(here, there, 2.0)
    return [(found.frequencies[i], float(there.frequencies[k])) for i, k in enumerate(order)]


def modes(atoms: Atoms, hessian: np.ndarray) -> Modes:
    """Of a free molecule."""
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    motions = rigid_motions_of(atoms, np.ones(len(root), dtype=bool))
    return modes_of(hessian / np.outer(root, root), complement(motions, root))


def torsions(stored: dict, start: Atoms) -> list[tuple[Estimate, float]]:
    """Energies of relaxed scans above the minimum, eV."""
    surfaces = Surfaces(start.calc)
    found = []
    for scan in stored.get("torsions", {}).values():
        for point in scan["points"]:
            atoms = Atoms(stored["numbers"], point["positions"])
            atoms.calc = start.calc
            atoms.set_constraint(FixInternals(dihedrals_deg=[[point["angle"], scan["atoms"]]]))
            BFGS(atoms, logfile=None).run(fmax=5 * FMAX, steps=200)
            energies = surfaces.energies([start, atoms])
            true = point["energy"] - stored["minimum"]["energy"]
            if true > 2e-3:  # the minimum itself, or its mirror image, is no barrier
                found.append((energies[1] - energies[0], true))
    return found


def row(name: str, kind: str, pairs: list[tuple[Estimate, float]]) -> str:
    errors = np.array([float(estimate.value) - true for estimate, true in pairs])
    stds = np.array([float(estimate.std) for estimate, _ in pairs])
    held = [sum(bool(estimate.holds(true, level)) for estimate, true in pairs) for level in LEVELS]
    inside = ", ".join(f"{n} of {len(pairs)}" for n in held)
    return (
        f"| {name} | {kind} | {len(pairs)} | {np.abs(errors).mean():.2g} | {stds.mean():.2g} | "
        f"{np.sqrt(np.mean((errors / stds) ** 2)):.2g} | {inside} |"
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(
        "| molecule | quantity | n | mean error | mean error bar | rms z | inside 68 %, 95 % |\n|---|---|---|---|---|---|---|"
    )
    everything: dict[str, list[tuple[Estimate, float]]] = {}
    for path in sorted(FOLDER.glob("*.json")):
        stored, name = json.loads(path.read_text()), path.stem
        if "minimum" not in stored:
            continue
        true = Atoms(stored["numbers"], stored["minimum"]["positions"])
        if true.get_chemical_symbols() != starting_structure(name).get_chemical_symbols():
            raise SystemExit(f"{path} is not about {name}")
        atoms = true.copy()
        atoms.calc = calculator()
        relaxed = relax(atoms, fmax=FMAX, z=0.0)
        kinds = geometry(relaxed, true)
        kinds["frequencies, cm⁻¹"] = frequencies(stored, true, atoms)
        kinds["energy, eV"] = [(relaxed.energy, stored["minimum"]["energy"])]
        kinds["torsions, eV"] = torsions(stored, atoms)
        for kind, pairs in kinds.items():
            if pairs:
                everything.setdefault(kind, []).extend(pairs)
                print(row(name, kind, pairs), flush=True)
    for kind, pairs in everything.items():
        print(row("**all**", kind, pairs))
    held = [sum(bool(e.holds(true, level)) for pairs in everything.values() for e, true in pairs) for level in LEVELS]
    n = sum(len(pairs) for pairs in everything.values())
    print(f"\ninside: {held[0]} of {n} at 68 %, {held[1]} at 95 %")


if __name__ == "__main__":
    main()
