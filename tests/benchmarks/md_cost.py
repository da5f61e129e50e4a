"""What a monitor and the calculator itself cost in MD, as ratios within one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/md_cost.py --molecules ethanol aspirin --steps 400 --json md_cost.json

NVE of a bundled molecule with the bundled model, float32, centre surface driving, one thread, in alternating blocks of steps:
plain; under an ``UncertaintyMonitor`` with K draws every k-th step. Medians over blocks of process time per step. The overhead
of the calculator is a call of ``get_forces`` on moved atoms less the evaluation of the network inside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from blipcalc import BayesianCalculator, UncertaintyMonitor
from blipcalc.files.bundled import starting_structure

#: steps of a block that is timed at once, a multiple of the monitor's interval
BLOCK = 40
#: eV/Å; never reached
TOLERANCE = 100.0


def process_ms(call: Callable[[], object]) -> float:
    """Process time of a call, ms."""
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def measure(molecule: str, options: argparse.Namespace) -> dict[str, float | int | str]:
    """One row."""
    atoms = starting_structure(molecule)
    calc = BayesianCalculator(
        options.model, surface="centre", n_draws=options.draws, dtype="float32", strategy=options.strategy
    )
    atoms.calc = calc
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    plain = VelocityVerlet(atoms, 0.5 * units.fs)
    watched = VelocityVerlet(atoms, 0.5 * units.fs)
    UncertaintyMonitor(watched, tolerance=TOLERANCE, every=options.every)
    for dynamics in (plain, watched):
        dynamics.run(BLOCK)  # kernels are built, lists are there
    times: dict[str, list[float]] = {"plain": [], "watched": []}
    for _ in range(max(1, options.steps // BLOCK)):
        times["plain"].append(process_ms(lambda: plain.run(BLOCK)) / BLOCK)
        times["watched"].append(process_ms(lambda: watched.run(BLOCK)) / BLOCK)
    evaluate, inside, overhead = calc.predictor._evaluator, [], []

    def timed(*arguments, **settings):
        start = time.process_time()
        samples = evaluate(*arguments, **settings)
        inside.append(1e3 * (time.process_time() - start))
        return samples

    calc.predictor._evaluator = timed
    rng = np.random.default_rng(1)
    for _ in range(options.steps // 4):
        atoms.positions += rng.normal(0, 1e-4, atoms.positions.shape)
        whole = process_ms(atoms.get_forces)
        overhead.append(whole - inside[-1])
    per_step = {name: statistics.median(values) for name, values in times.items()}
    return {
        "molecule": molecule,
        "atoms": len(atoms),
        "strategy": options.strategy,
        "ms_plain": per_step["plain"],
        "ms_watched": per_step["watched"],
        "ratio": per_step["watched"] / per_step["plain"],
        "overhead_ms": statistics.median(overhead),
    }


def main() -> None:
    """Read the options, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rmd17")
    parser.add_argument("--molecules", nargs="+", default=["ethanol", "aspirin"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--strategy", default="traced")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(molecule, options) for molecule in options.molecules]
    lines = [
        "| molecule | atoms | ms per step, plain | watched | ratio | overhead of the calculator, ms |",
        "|---" * 6 + "|",
    ]
    lines += [
        f"| {r['molecule']} | {r['atoms']} | {r['ms_plain']:.2f} | {r['ms_watched']:.2f} | {r['ratio']:.2f} "
        f"| {r['overhead_ms']:.2f} |"
        for r in rows
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
