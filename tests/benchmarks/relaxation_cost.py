"""What error bars on a relaxed structure cost, as multiples of the relaxation itself.

    OMP_NUM_THREADS=1 python tests/benchmarks/relaxation_cost.py --molecule aspirin
    OMP_NUM_THREADS=1 python tests/benchmarks/relaxation_cost.py --molecule aspirin --strategy compiled

The bundled model, 16 draws, one core.  The relaxation: BFGS to 0.01 eV/Å on the surface that drives from a structure rattled by
0.05 Å, nothing else.  Linear response: draws at the minimum, Hessian, its inverse, forces of the draws in their predicted minima.
Re-relaxation: each draw to 1e-4 Å.  CPU seconds of one
thread; kernels are made before anything is timed; medians of some repetitions, in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.files.bundled import starting_structure
from blipcalc.relaxation.relax import relax

N_DRAWS = 16


def timed(molecule: str, surface: str, strategy: str, repetitions: int) -> dict[str, object]:
    calculator = BayesianCalculator("rmd17", surface=surface, n_draws=N_DRAWS, strategy=strategy)
    seconds: dict[str, list[float]] = {"relaxation": [], "response": [], "relax": []}
    steps = 0
    for repetition in range(repetitions + 1):  # the first one makes kernels, and is forgotten
        for how in seconds:
            atoms = starting_structure(molecule)
            atoms.rattle(0.05, seed=repetition % 2)
            atoms.calc = calculator
            began = time.process_time()
            alone = relax(atoms, z=0.0, error_bars=None)
            between = time.process_time()
            if how == "relaxation":
                steps = alone.descent.steps
                seconds[how].append(between - began)
                continue
            calculator.reset()
            relax(atoms, z=0.0, error_bars=how)
            seconds[how].append(time.process_time() - between)
    found = {how: median(values[1:]) for how, values in seconds.items()}
    return {
        "molecule": molecule,
        "surface": surface,
        "strategy": strategy,
        "steps": steps,
        "seconds": found,
        "response_over_relaxation": found["response"] / found["relaxation"],
        "members_over_relaxation": found["relax"] / found["relaxation"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecule", default="aspirin")
    parser.add_argument("--surface", nargs="*", default=["centre", "mean"])
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [timed(arguments.molecule, s, arguments.strategy, arguments.repetitions) for s in arguments.surface]
    text = json.dumps(rows, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
