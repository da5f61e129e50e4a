"""From labelled frames to guarded MD with a model, a posterior, a criterion and an observable of another package.

The labels are those of the bundled model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS

import blipcalc
from blipcalc.averages import average
from blipcalc.monitor.fit_limits import check_reference
from blipcalc.monitor.limits import Limits
from blipcalc.predictor import BayesianPredictor

FOLDER = Path(sys.argv[1])
TRUTH = blipcalc.BayesianCalculator("rmd17", n_draws=2, raw=True)


def walk(start: Atoms, n: int, seed: int) -> list[Atoms]:
    """Positions that forget where they were in ten frames, 0.04 Å around a structure."""
    rng, away, frames = np.random.default_rng(seed), np.zeros((len(start), 3)), []
    for _ in range(n):
        away = 0.9 * away + 0.04 * np.sqrt(1 - 0.9**2) * rng.normal(size=away.shape)
        atoms = start.copy()
        atoms.positions += away
        frames.append(atoms)
    return frames


def labelled(frames: list[Atoms]) -> list[Atoms]:
    """With energies and forces of the bundled model."""
    for atoms in frames:
        atoms.calc = TRUTH
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    return frames


relaxed = molecule("CH3CH2OH")
relaxed.calc = TRUTH
BFGS(relaxed, logfile=None).run(fmax=0.05, steps=200)
relaxed.calc = None

blipcalc.write(FOLDER / "frames.xyz", labelled(walk(relaxed, 80, seed=0)))
model = blipcalc.train(
    FOLDER / "frames.xyz",
    FOLDER / "m.blip",
    data={"validation": 0.1, "calibration": 0.0},
    model={"architecture": "radial", "posterior": "snapshots", "posterior_settings": {"kept": 6}},
    training={"epochs": 30, "batch_size": 4, "learning_rate": 1e-2},
    folder=FOLDER / "run",
)
calibrated = blipcalc.calibrate(
    blipcalc.load(FOLDER / "m.blip"), labelled(walk(relaxed, 40, seed=1)), n_draws=(8,), surfaces=["centre"]
)

predictor = BayesianPredictor.load(calibrated, n_draws=8)
settings = {"interval_fs": 20.0, "tolerance": 5.0, "rate_per_ns": 200.0, "confidence": 0.75}
replicas = [walk(relaxed, 200, seed) for seed in range(2, 10)]
limits = check_reference(predictor, replicas, criteria=["trip", "energy"], **settings)
limits.save(FOLDER / "limits.json")
assert Limits.load(FOLDER / "limits.json") == limits

found = {}
for name, factor in (("sound", 1.0), ("tight", 1e-6)):  # the control: a limit that everything is beyond halts
    energy = limits["energy"]
    level = energy.limit.__class__(**vars(energy.limit) | {"value": factor * energy.limit.value})
    own = limits.model_copy(update={"criteria": (energy.model_copy(update={"limit": level}),)})
    atoms = relaxed.copy()
    atoms.calc = blipcalc.BayesianCalculator(calibrated, n_draws=8)
    run = {"temperature_K": 20.0, "limits": own, "folder": FOLDER / name, "write_every": 20}
    summary, monitor = blipcalc.run_md(atoms, time_ps=0.1, **run)
    found[name] = [summary.status, monitor.decision.unit, monitor.decision.reason]
blipcalc.write(FOLDER / "walk.traj", [atoms for replica in replicas[:4] for atoms in replica])
how = {"temperature_K": 300.0, "calculator": atoms.calc, "discard": 0.0, "method": "cea"}
gyration = average(FOLDER / "walk.traj", "gyration", **how)
found |= {"model": type(model.network).__name__, "posterior": model.posterior.name, "gyration": float(gyration.value)}
print(json.dumps(found))
