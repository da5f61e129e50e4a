"""Langevin MD of the seven rMD17 molecules at 300 K: bonds stay bonds, the temperature is the thermostat's.

    python examples/reproduce/stability.py --strategy compiled --molecules ethanol uracil    # several at a time
    python examples/reproduce/stability.py --strategy compiled                               # the rest, then the table

A run counts as stable where no distance falls below 0.75 Å, no bond of the start grows beyond 2.25 Å (Tan et al. 2023,
arXiv 2305.01754), and the mean kinetic temperature lies within five standard errors of 300 K (block averages of 5 ps).
Each molecule's figures are kept in ``--folder``; one that is there is not run again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.neighborlist import build_neighbor_list, natural_cutoffs
from tqdm import tqdm

from blipcalc import BayesianCalculator
from blipcalc.files.bundled import MOLECULES, starting_structure

SHORTEST, LONGEST, TARGET = 0.75, 2.25, 300.0


def run(molecule, arguments):
    """One molecule; figures as plain values."""
    rng = np.random.default_rng(arguments.seed)
    atoms = starting_structure(molecule)
    atoms.calc = BayesianCalculator(
        arguments.model, surface=arguments.surface, dtype=arguments.dtype, strategy=arguments.strategy
    )
    bonds = build_neighbor_list(atoms, natural_cutoffs(atoms), self_interaction=False).get_connectivity_matrix()
    first, second = bonds.nonzero()
    thermalize_momenta(atoms, temperature_K=TARGET, rng=rng)
    Stationary(atoms)
    ZeroRotation(atoms)
    dynamics = Langevin(
        atoms, arguments.timestep_fs * units.fs, temperature_K=TARGET, friction=0.01 / units.fs, fixcm=False, rng=rng
    )
    temperatures, shortest, longest = [], np.inf, 0.0
    steps = round(1000 * arguments.time_ps / arguments.timestep_fs)
    for _ in tqdm(dynamics.irun(steps), total=steps + 1, desc=molecule):
        if dynamics.nsteps % 10 == 0:
            distances = atoms.get_all_distances()
            shortest = min(shortest, distances[np.triu_indices(len(atoms), 1)].min())
            longest = max(longest, distances[first, second].max())
            temperatures.append(atoms.get_temperature())
            if not (shortest >= SHORTEST and longest <= LONGEST):
                break
    block = max(1, round(5000 / (10 * arguments.timestep_fs)))
    values = np.array(temperatures[block // 5 :])
    means = values[: len(values) // block * block].reshape(-1, block).mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else float("nan")
    return {
        "settings": settings_of(arguments),
        "time_ps": dynamics.nsteps * arguments.timestep_fs / 1000,
        "shortest_A": float(shortest),
        "longest_bond_A": float(longest),
        "temperature_K": float(values.mean()),
        "standard_error_K": float(error),
        "stable": bool(shortest >= SHORTEST and longest <= LONGEST and abs(values.mean() - TARGET) <= 5 * error),
    }


def settings_of(arguments):
    """What the figures of a molecule depend on."""
    return {name: str(value) for name, value in vars(arguments).items() if name not in ("molecules", "folder")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rmd17")
    parser.add_argument("--molecules", nargs="+", default=list(MOLECULES))
    parser.add_argument("--time-ps", type=float, default=100.0)
    parser.add_argument("--timestep-fs", type=float, default=0.5)
    parser.add_argument("--surface", default="centre")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/stability"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(
        "| molecule | ps | shortest distance (Å) | longest bond (Å) | temperature (K) | stable |",
        "|---" * 6 + "|",
        sep="\n",
    )
    for molecule in arguments.molecules:
        kept = arguments.folder / f"{molecule}.json"
        if kept.exists() and json.loads(kept.read_text())["settings"] != settings_of(arguments):
            parser.error(f"{kept} was run with other settings; give another --folder, or remove it")
        if not kept.exists():
            kept.write_text(json.dumps(run(molecule, arguments), indent=1))
        f = json.loads(kept.read_text())
        print(
            f"| {molecule} | {f['time_ps']:g} | {f['shortest_A']:.2f} | {f['longest_bond_A']:.2f} "
            f"| {f['temperature_K']:.1f} ± {f['standard_error_K']:.1f} | {'yes' if f['stable'] else '**no**'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
