"""Whether M members of an ensemble train faster side by side: one vmapped step of all against a step of each.

    OMP_NUM_THREADS=1 python tests/benchmarks/ensemble_step.py --members 4 --compile
    python tests/benchmarks/ensemble_step.py --members 4 10 --device cuda

A step: energies, forces, loss and its gradient by the weights, for a batch of compact clusters with the density of an organic
molecule.  Ratio of one vmapped step of M members to M steps of one, medians of one run; below 1 side by side is faster.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from draw_cost import system

from blipcalc.core.graph import Graph
from blipcalc.models.build import build_model
from blipcalc.training.steps import step_function

SIZES = {"race": {"layers": 2}, "painn": {"features": 64, "interactions": 2}}


def median_seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """Median time of a call: of the processor, which others on it do not change much, or of the clock on a device."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return statistics.median(times)


def measure(name: str, members: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of a vmapped step of all members, and of a step of one."""
    torch.manual_seed(0)
    model = build_model(name, SIZES[name], (1, 6, 8)).to(options.device)
    rng = np.random.default_rng(0)
    graphs = [Graph.from_atoms(system(options.atoms, rng), model.cutoff) for _ in range(options.batch)]
    tensors = Graph.collate(graphs).to(options.device).tensors(torch.float32)
    weights = {name: value.detach().clone().requires_grad_(True) for name, value in model.named_parameters()}
    stacked = {
        name: torch.stack([value.detach()] * members).requires_grad_(True) for name, value in model.named_parameters()
    }

    def stepper(overrides: dict[str, torch.Tensor], stack: bool) -> Callable[[], None]:
        step = step_function(model, stacked=stack, compiled=options.compile)

        def call() -> None:
            out = step({}, overrides, *tensors)
            loss = out.energy.square().mean() + out.forces.square().mean()
            torch.autograd.grad(loss, list(overrides.values()), allow_unused=True)

        call()
        return call

    calls = [stepper(stacked, True), stepper(weights, False)]
    together, alone = (median_seconds(call, options.repeats, options.device) for call in calls)
    return together, alone


def main() -> None:
    """Read the options, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[4])
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--atoms", type=int, default=9)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    sys.stdout.write("| model | M | one vmapped step, ms | one step of one, ms | ratio |\n|---|---|---|---|---|\n")
    for name in options.models:
        for members in options.members:
            together, alone = measure(name, members, options)
            sys.stdout.write(
                f"| {name} | {members} | {1e3 * together:.1f} | {1e3 * alone:.1f} | {together / members / alone:.2f} |\n"
            )


if __name__ == "__main__":
    main()
