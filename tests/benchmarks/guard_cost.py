"""What the guard itself costs: all channels and faults, beyond the model evaluations that it asks for.

    OMP_NUM_THREADS=1 python tests/benchmarks/guard_cost.py --strategy compiled

MD of bundled molecules with the bundled model, float32, centre surface, limits with all four channels, K = 8 draws every 20th
step, faults at every step, events to a file.  The time that the monitor takes, less what the calculator takes inside it, over the
time of a step of the same run; process time, medians over blocks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from blipcalc import BayesianCalculator, UncertaintyMonitor
from blipcalc.files.bundled import starting_structure
from blipcalc.monitor import Limits
from blipcalc.monitor.fit_limits import element_quantiles
from blipcalc.monitor.limits import fit_limits

#: steps of a block, fs of a step, steps between checks
BLOCK, STEP, EVERY = 100, 0.5, 20


class Watch:
    """Process time spent inside calls that do not nest."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def around(self, call: Callable) -> Callable:
        def timed(*arguments, **settings):
            self._depth += 1
            began = time.process_time()
            try:
                return call(*arguments, **settings)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.process_time() - began

        return timed


def limits_of(calc: BayesianCalculator) -> Limits:
    """Limits that are never reached, with every channel."""
    rng = np.random.default_rng(0)
    replicas = [np.exp(rng.normal(size=4000)) for _ in range(8)]
    far = [1e3 + np.abs(rng.normal(size=4000)) for _ in range(8)]
    found = fit_limits(
        {"ratio": replicas, "latent_distance": far}, STEP * EVERY, calc.calibration,
        element_quantiles(calc.calibration, 0.95), tolerance=1e3, rate_per_ns=100.0, domain_hash=calc.domain.hash,
    )  # fmt: skip
    assert len(found.criteria) == 4, found.notes
    return found


def measure(molecule: str, options: argparse.Namespace, folder: Path) -> str:
    atoms = starting_structure(molecule)
    calc = BayesianCalculator("rmd17", surface="centre", n_draws=8, dtype="float32", strategy=options.strategy)
    atoms.calc = calc
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    dynamics = Langevin(atoms, STEP * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False, rng=rng)
    monitor = UncertaintyMonitor(dynamics, limits=limits_of(calc), events=folder / "events.jsonl")
    model = Watch()
    calc.calculate = model.around(calc.calculate)
    original = type(monitor).__call__
    inside = []

    def called() -> None:
        before_model = model.seconds
        began = time.process_time()
        original(monitor)
        inside.append(time.process_time() - began - (model.seconds - before_model))

    dynamics.observers[:] = [(called if entry[0] is monitor else entry[0], *entry[1:]) for entry in dynamics.observers]
    dynamics.run(BLOCK)
    rows = []
    for _ in range(max(1, options.steps // BLOCK)):
        inside.clear()
        began = time.process_time()
        dynamics.run(BLOCK)
        rows.append(((time.process_time() - began) / BLOCK, sum(inside) / BLOCK))
    assert monitor.status != "halted", monitor.decision
    step, own = (1e3 * statistics.median(values) for values in zip(*rows, strict=True))
    return (
        f"| {molecule}, {options.strategy} | {len(atoms)} | {step:.2f} | {own:.3f} | {100 * own / (step - own):.1f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", nargs="*", default=["ethanol", "aspirin"])
    parser.add_argument("--strategy", default="traced")
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    print("| molecule | atoms | ms per step, guarded | of it the guard's own | over the rest |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for molecule in options.molecules:
            print(measure(molecule, options, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
