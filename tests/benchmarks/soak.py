"""Memory of a long guarded run: a million steps, and what of them stays.

    OMP_NUM_THREADS=1 python tests/benchmarks/soak.py --steps 1000000 --json soak.json

``run_md`` in a folder, Langevin of eight atoms in wells under limits with all three channels, with events, checkpoints and a
sparse trajectory.  The resident memory of the process is read as the run goes; growth is the slope of its least-squares line
after the first fifth, beside what the history of the monitor holds of it: a row of each check.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.core.prediction import Calibration, SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.md.run_md import run_md
from blipcalc.monitor.limits import Limits, fit_limits

TIMESTEP_FS, EVERY = 1.0, 10
SAMPLES, WARM = 100, 0.2
MB = 2.0**20


class Wells(Predictor):
    """Three draws of springs to the starting places."""

    species, n_draws, surface, has_stress, has_energies, heads = None, 3, "mean", False, False, "none"

    def __init__(self, home: np.ndarray, calibration: Calibration) -> None:
        self.home, self.calibration = home, calibration
        self.stiffness = 5.0 * (1.0 + 0.1 * np.array([-1.0, 0.0, 1.0]))

    def __call__(self, structures: list[Atoms], need: Need = Need()) -> list[Any]:
        """Predictions."""
        predictions = []
        for atoms in structures:
            d = atoms.positions - self.home
            samples = SampleArrays(
                energy=0.5 * self.stiffness * (d**2).sum(), forces=-self.stiffness[:, None, None] * d
            )
            predictions.append(self.calibration.apply(summarize(atoms.numbers, samples)))
        return predictions


@dataclass(frozen=True)
class Soaked:
    """Figures of a run."""

    steps: int
    checks: int
    seconds: float
    memory_MB: float
    growth_MB: float
    history_MB: float
    channels: int

    @property
    def leaked_MB(self) -> float:
        """Growth that is not the history's."""
        return self.growth_MB - self.history_MB


def resident_MB() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MB


def guarded() -> tuple[Atoms, Limits]:
    """Atoms with a calibrated calculator, and limits that it stays far below."""
    atoms = Atoms("N8", positions=np.argwhere(np.ones((2, 2, 2))) * 3.0)
    calibration = Calibration(
        surface="mean", n_draws=3, seed=0, model_hash="m", scale={7: 1.0}, scale_energy=1.0, q_atom={7: {0.95: 2.0}},
        q_frame={0.95: 3.0}, n_frames=100, n_atoms={7: 800}, frames_hash="f",
    )  # fmt: skip
    reference = np.random.default_rng(0).uniform(0.5, 1.0, (40, 1000))
    limits = fit_limits(
        {"ratio": reference},
        TIMESTEP_FS * EVERY,
        calibration,
        {"N": 2.0},
        tolerance=5.0,
        rate_per_ns=100.0,
        confidence=0.8,
    )
    atoms.calc = BayesianCalculator(Wells(atoms.positions.copy(), calibration))
    return atoms, limits


def soak(steps: int, folder: Path, leak: Callable[[], Any] | None = None) -> Soaked:
    """Run, and watch the memory; ``leak`` is called at every check."""
    atoms, limits = guarded()
    seen: list[tuple[int, float]] = []

    def watch(dynamics: Any) -> Callable[[], None]:
        def look() -> None:
            if leak is not None:
                leak()
            if dynamics.nsteps % max(steps // SAMPLES, EVERY) == 0:
                gc.collect()
                seen.append((dynamics.nsteps, resident_MB()))

        return look

    began = time.perf_counter()
    summary, monitor = run_md(
        atoms, time_ps=steps * TIMESTEP_FS / 1000.0, timestep_fs=TIMESTEP_FS, temperature_K=300.0, limits=limits,
        folder=folder, write_every=max(steps // 50, 1), checkpoint_every=max(steps // 50, 1), observers=[watch], progress=False,
    )  # fmt: skip
    if summary.status != "finished":
        raise RuntimeError(summary.reason)
    at, memory = np.array([row for row in seen if row[0] >= WARM * steps]).T
    growth = np.polyfit(at / steps, memory, 1)[0]
    history = sum(values.nbytes for values in monitor.history.to_dict().values()) / MB
    return Soaked(
        summary.steps,
        len(monitor.history),
        time.perf_counter() - began,
        memory[-1],
        growth,
        history,
        len(limits.criteria),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(arguments.steps, Path(folder) / "run")
    figures = asdict(found) | {
        "leaked_MB": found.leaked_MB,
        "leaked_MB_per_hour": found.leaked_MB * 3600 / found.seconds,
    }
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
