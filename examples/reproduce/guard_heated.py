"""Does the guard halt when the error passes the tolerance?  The bundled model where it has to fail, against DFT at its level.

    python examples/reproduce/guard_heated.py run         # trajectories; a few minutes
    pip install pyscf tblite
    python examples/reproduce/guard_heated.py label       # PBE/def2-SVP of every frame; some seconds each, resumable
    python examples/reproduce/guard_heated.py table

| scene | frames |
|---|---|
| heated | Langevin MD, 300 K to 2,000 K in 4 ps, nobody halts it; a check and a label every 100 fs |
| stretched | one bond of the starting structure drawn out from 0 to 100 %, in steps of 5 % |
| visitor | ammonia comes from 5 Å to 1.6 Å of the heaviest atom that can be reached: nitrogen where there was none |

The true error is the largest norm of a force error over the atoms.  What would halt: R = q_atom σ / tolerance > 1 (the guard's
statistic at the tolerance itself), or a latent distance beyond all of 10 ps at 300 K.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from ase.io.trajectory import TrajectoryReader

from blipcalc import BayesianCalculator, run_md
from blipcalc import read as read_kept
from blipcalc import write as write_kept
from blipcalc.calculators.snapshot import snapshot
from blipcalc.files.bundled import starting_structure
from blipcalc.monitor.fit_limits import element_quantiles
from blipcalc.monitor.run_criteria import HaltRatio

#: (fixed atom, end that moves) of the bond that is drawn out
BONDS = {"ethanol": ("O", "H"), "malonaldehyde": ("C", "H"), "benzene": ("C", "H")}
#: PBE as in the training data; eV/Å; label
TOLERANCE, LEVEL = 0.5, 0.95
SCENES = ("heated", "stretched", "visitor")


def calculator() -> BayesianCalculator:
    return BayesianCalculator("rmd17", surface="centre", n_draws=8)


def dynamics(name: str, temperature, time_ps: float, every: int, path: Path) -> list[Atoms]:
    atoms = starting_structure(name)
    atoms.calc = BayesianCalculator("rmd17", surface="centre", n_draws=8, strategy="traced")
    run_md(
        atoms, time_ps=time_ps, temperature_K=temperature, timestep_fs=0.5, threshold=1e6, fault_checks=(), every=every,
        write_every=every, trajectory=path, friction_per_fs=0.02, on_breach="flag",
    )  # fmt: skip
    return read_kept(path)


def stretched(name: str) -> list[Atoms]:
    atoms = starting_structure(name)
    first, second = BONDS[name]
    distances = atoms.get_all_distances()
    pairs = [(distances[i, j], i, j) for i in range(len(atoms)) for j in range(len(atoms))
             if (atoms.symbols[i], atoms.symbols[j]) == (first, second)]  # fmt: skip
    _, i, j = min(pairs)
    frames = []
    for factor in np.arange(0, 1.001, 0.05):
        frame = atoms.copy()
        frame.positions[j] += factor * (atoms.positions[j] - atoms.positions[i])
        frame.info["percent"] = round(100 * factor)
        frames.append(frame)
    return frames


def visitor(name: str) -> list[Atoms]:
    """Ammonia, its lone pair ahead, on the way to the atom that it can come nearest to from outside."""
    atoms, guest = starting_structure(name), molecule("NH3")
    guest.positions -= guest.positions[0]
    centre = atoms.get_center_of_mass()
    target = int(np.argmax(np.linalg.norm(atoms.positions - centre, axis=1)))
    away = atoms.positions[target] - centre
    away /= np.linalg.norm(away)
    guest.rotate(guest.positions[1:].mean(axis=0), away)
    frames = []
    for distance in np.arange(5.0, 1.55, -0.2):
        frame = atoms.copy()
        placed = guest.copy()
        placed.positions += atoms.positions[target] + distance * away
        frame += placed
        frame.info["distance"] = round(float(distance), 2)
        frames.append(frame)
    return frames


def run(options: argparse.Namespace, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    calc = calculator()
    for name in options.molecules:
        dynamics(name, 300.0, 10.0, 40, folder / f"{name}-reference.traj")
        dynamics(name, [(0.0, 300.0), (4.0, 2000.0)], 4.0, 200, folder / f"{name}-heated.traj")
        for scene, frames in (("stretched", stretched(name)), ("visitor", visitor(name))):
            kept = []
            for atoms in frames:
                atoms.calc = calc
                kept.append(snapshot(atoms, compute=("energy", "forces", "atom_std", "latent_distance")))
            write_kept(folder / f"{name}-{scene}.traj", kept)


def label(options: argparse.Namespace, folder: Path) -> None:
    from labels_pyscf import NotConvergedError, label, n_kept

    for name in options.molecules:
        for scene in SCENES:
            path, output = folder / f"{name}-{scene}.traj", folder / f"{name}-{scene}-dft.xyz"
            with TrajectoryReader(path) as stored:
                frames = [Atoms(stored[k].numbers, stored[k].positions) for k in range(len(stored))]
            for k in range(n_kept(output, frames), len(frames)):
                try:
                    atoms = label(frames[k], "pbe")
                except NotConvergedError:
                    atoms = frames[k]
                write(output, atoms, append=True)
                print(f"{output.name}: {k + 1} of {len(frames)}", flush=True)


def largest_errors(frames: list[Atoms], labels: list[Atoms]) -> np.ndarray:
    found = []
    for frame, true in zip(frames, labels, strict=False):
        known = true.calc is not None and "forces" in true.calc.results
        error = true.get_forces() - frame.get_forces() if known else np.full((len(true), 3), np.nan)
        found.append(np.linalg.norm(error, axis=1).max())
    return np.array(found)


def first(beyond: np.ndarray, says: list[str]) -> str:
    return says[int(np.argmax(beyond))] if beyond.any() else "never"


def table(options: argparse.Namespace, folder: Path) -> None:
    ratio = HaltRatio(element_quantiles(calculator().calibration, LEVEL), TOLERANCE)
    units = {"heated": ("time_fs", "fs"), "stretched": ("percent", "%"), "visitor": ("distance", "Å")}
    lines = [
        f"| molecule, scene | error passes {TOLERANCE} eV/Å | R passes 1 | latent distance passes that of 300 K | "
        "frames beyond: error, of them R, distance, either | false: R, distance | largest error, its bound (eV/Å) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in options.molecules:
        quiet = max(
            frame.calc.results["latent_distance"].max() for frame in read_kept(folder / f"{name}-reference.traj")
        )
        for scene in SCENES:
            frames = read_kept(folder / f"{name}-{scene}.traj")
            labels = read(folder / f"{name}-{scene}-dft.xyz", ":")
            frames = frames[: len(labels)]
            key, unit = units[scene]
            says = [f"{frame.info[key]:g} {unit}" for frame in frames]
            error = largest_errors(frames, labels)
            r = np.array([ratio(f.get_chemical_symbols(), f.calc.results["atom_std"]).max() for f in frames])
            far = np.array([f.calc.results["latent_distance"].max() for f in frames]) > quiet
            wrong, over = error > TOLERANCE, ~(r <= 1)
            right = np.isfinite(error) & ~wrong
            worst = int(np.nanargmax(error))
            lines.append(
                f"| {name}, {scene} | {first(wrong, says)} | {first(over, says)} | {first(far, says)} | "
                f"{wrong.sum()} of {len(error)}: {(wrong & over).sum()}, {(wrong & far).sum()}, "
                f"{(wrong & (over | far)).sum()} | {(right & over).sum()}, {(right & far).sum()} | "
                f"{error[worst]:.2g}, {r[worst] * TOLERANCE:.2g} |"
            )
    text = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["run", "label", "table"])
    parser.add_argument("--molecules", nargs="*", default=list(BONDS))
    options = parser.parse_args()
    {"run": run, "label": label, "table": table}[options.part](options, Path("runs") / "guard-heated")


if __name__ == "__main__":
    main()
