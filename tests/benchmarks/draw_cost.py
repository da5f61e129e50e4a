"""What K draws with forces cost, relative to one eager evaluation of the deterministic network in the same run.

    python tests/benchmarks/draw_cost.py --systems 9 21 192 --draws 1 4 8 16 --strategies loop vmap traced --json cost.json

Systems: 9 and 21 atoms in a compact cluster with the density of an organic molecule, 192 atoms of periodic water-like density.
Times are medians of process time on one thread: compare ratios within a run, never milliseconds between runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from blipcalc.core.contracts import Draws, place_draws
from blipcalc.core.evaluate import Evaluator
from blipcalc.core.graph import Graph
from blipcalc.core.neighbors import NeighborList
from blipcalc.models.painn import PaiNN, PaiNNConfig
from blipcalc.posteriors.blip import BlipPosterior, bayesianize

#: atoms/Å³, water at 1 g/cm³; Å, the closest that two atoms come
DENSITY, CLOSEST = 0.1, 0.95


def system(n_atoms: int, rng: np.random.Generator) -> Atoms:
    """Atoms at random with a shortest distance: an open cluster, or a periodic cell from 100 atoms on."""
    periodic = n_atoms >= 100
    length = (n_atoms / DENSITY) ** (1 / 3)
    positions = np.empty((0, 3))
    while len(positions) < n_atoms:
        new = rng.uniform(0, length, 3)
        difference = positions - new
        if periodic:
            difference -= length * np.round(difference / length)
        if not len(positions) or np.linalg.norm(difference, axis=1).min() > CLOSEST:
            positions = np.vstack([positions, new])
    numbers = np.resize([8, 1, 1, 6], n_atoms)
    return Atoms(numbers, positions, cell=[length] * 3 if periodic else None, pbc=periodic)


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Median process time of a call, ms."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def measure(options: argparse.Namespace) -> list[dict[str, float | int | str]]:
    """One row per system, strategy and K."""
    torch.manual_seed(0)
    config = PaiNNConfig(features=options.features, interactions=options.interactions)
    dtype = getattr(torch, options.dtype)
    point = PaiNN(config, [1, 6, 8]).to(dtype).eval().requires_grad_(False)
    blip = bayesianize(PaiNN(config, [1, 6, 8])).to(dtype).eval().requires_grad_(False)
    posterior = BlipPosterior(blip.slot_shapes())
    single = Evaluator(point, strategy="loop")
    points = {"compiled": Evaluator(point, strategy="compiled")} if "compiled" in options.strategies else {}
    evaluators = {name: Evaluator(blip, strategy=name, chunk=options.chunk) for name in options.strategies}
    rows = []
    for n_atoms in options.systems:
        atoms = system(n_atoms, np.random.default_rng(0))
        graph = Graph.from_atoms(atoms, config.cutoff)
        neighbors = NeighborList(config.cutoff, 1.0)
        common = {"atoms": n_atoms, "pairs": graph.edge_index.shape[1], "dtype": options.dtype}

        def row(strategy: str, k: int, evaluator: Evaluator, draws: Draws, graph=graph, common=common) -> dict:
            start = time.perf_counter()
            evaluator(draws, graph)
            first = time.perf_counter() - start
            # the reference is timed beside every row, so that a machine that slows down slows both
            reference = median_ms(lambda: single(Draws(1), graph), options.repeats)
            ms = median_ms(lambda: evaluator(draws, graph), options.repeats)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            result = {**common, "strategy": strategy, "draws": k, "ms": ms, "ratio": ms / reference}
            sys.stderr.write(f"{result}\n")
            return {**result, "first_s": first, "peak_GiB": peak}

        rows.append(row("deterministic, eager", 1, single, Draws(1)))
        whole = median_ms(
            lambda atoms=atoms, n=neighbors: Graph.from_atoms(atoms, config.cutoff, n), 9 * options.repeats
        )
        places = atoms.positions, atoms.cell.array, atoms.pbc
        listing = median_ms(lambda n=neighbors, places=places: n.update(*places), 9 * options.repeats)
        rows[-1] |= {name: part / (whole + rows[-1]["ms"]) for name, part in (("list", listing), ("graph", whole))}
        rows += [row(f"deterministic, {name}", 1, evaluator, Draws(1)) for name, evaluator in points.items()]
        for k in options.draws:
            draws = place_draws(blip, posterior.draw(k, generator=torch.Generator().manual_seed(0)))
            rows += [row(name, k, evaluator, draws) for name, evaluator in evaluators.items()]
    return rows


def table(rows: list[dict[str, float | int | str]]) -> str:
    """The rows as a markdown table; peak memory is that of the process so far."""
    lines = [
        "| atoms | pairs | strategy | K | ms | ratio | first call s | list, and graph with it: share | peak GiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        share = f"{100 * r['list']:.1f} %, {100 * r['graph']:.1f} %" if "list" in r else ""
        lines.append(
            f"| {r['atoms']} | {r['pairs']} | {r['strategy']} | {r['draws']} | {r['ms']:.2f} | {r['ratio']:.2f} "
            f"| {r['first_s']:.1f} | {share} | {r['peak_GiB']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", type=int, nargs="+", default=[9, 21, 192], help="atoms")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 4, 8, 16], help="K")
    parser.add_argument("--strategies", nargs="+", default=["loop", "vmap", "traced"])
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--interactions", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--chunk", type=int, help="draws per pass; default: what the evaluator chooses")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options)
    sys.stdout.write(table(rows) + "\n")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
