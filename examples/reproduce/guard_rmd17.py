"""Predicted against observed false alarms of the guard on the bundled model: nanoseconds of ethanol at 300 K.

    python examples/reproduce/guard_rmd17.py run        # 32 molecules side by side for 70 ps: an hour and more of one core
    python examples/reproduce/guard_rmd17.py account    # limits from the first half of the time, held against the second

The molecules are so far apart that none knows of another: one batch for the network, 32 replicas for statistics.  The centre
drives, K = 8 draws are asked every 25 fs, and all of that is in one run folder: call ``run`` again and it goes on.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.trajectory import TrajectoryReader
from false_halts import account

from blipcalc import BayesianCalculator, run_md
from blipcalc.files.bundled import starting_structure
from blipcalc.files.safetensors_file import write_atomically
from blipcalc.monitor.fit_limits import element_quantiles
from blipcalc.monitor.run_criteria import HaltRatio

#: Å between molecules; fs of a step, between checks
APART, STEP, CHECK = 100.0, 1.0, 25.0
#: ps that are not looked at
SETTLING = 10.0
LEVEL = 0.95


def side_by_side(molecule: Atoms, copies: int) -> Atoms:
    """Copies in a row."""
    row = Atoms()
    for k in range(copies):
        one = molecule.copy()
        one.translate([APART * k, 0.0, 0.0])
        row += one
    return row


def calculator() -> BayesianCalculator:
    return BayesianCalculator("rmd17", surface="centre", n_draws=8, dtype="float32", strategy="compiled")


def run(options: argparse.Namespace, folder: Path) -> None:
    atoms = side_by_side(starting_structure(options.molecule), options.copies)
    atoms.calc = calculator()
    every = round(CHECK / STEP)
    run_md(
        atoms,
        time_ps=options.time_ps,
        timestep_fs=STEP,
        folder=folder,
        threshold=1e6,
        every=every,
        write_every=every,
        checkpoint_every=20 * every,
    )


def ratios(options: argparse.Namespace, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(replicas, checks) R of every molecule at every check, for a tolerance of 1 eV/Å, and its largest latent distance."""
    predictor = calculator().predictor
    ratio = HaltRatio(element_quantiles(predictor.calibration, LEVEL), 1.0)
    found, far = [], []
    with TrajectoryReader(folder / "trajectory.traj") as frames:
        symbols = frames[0].get_chemical_symbols()
        for k in range(round(SETTLING * 1e3 / CHECK), len(frames)):
            values = ratio(symbols, np.asarray(frames[k].info["blip_atom_std"]))
            found.append(values.reshape(options.copies, -1).max(axis=1))
            distances = frames[k].info.get("blip_latent_distance")
            if distances is None:  # a run of before models said where their data were
                distances = predictor.latent_distances([frames[k]])[0]
            far.append(np.asarray(distances).reshape(options.copies, -1).max(axis=1))
    return np.array(found).T, np.array(far).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["run", "account"])
    parser.add_argument("--molecule", default="ethanol")
    parser.add_argument("--copies", type=int, default=32)
    parser.add_argument("--time-ps", type=float, default=70.0)
    parser.add_argument("--rates", type=float, nargs="*", default=[10.0, 15.0, 20.0, 40.0], help="false alarms per ns")
    options = parser.parse_args()
    folder = Path("runs") / f"guard-{options.molecule}-{options.copies}"
    if options.part == "run":
        run(options, folder)
        return
    values, distances = ratios(options, folder)
    text = account(values, options.rates, CHECK, distances)
    write_atomically(folder / "account.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
