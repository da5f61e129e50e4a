"""Relax a zeolite and its cell, with error bars on lattice parameters; then MD at constant pressure, which says how dense it is.

Sodalite was not among the six topologies that the bundled model learned from.
"""

from pathlib import Path

import blipcalc
from blipcalc import BayesianCalculator, average, run_md
from blipcalc.bundle import starting_structure
from blipcalc.errors import SamplingError
from blipcalc.relaxation.picture import plot_relaxed

FOLDER = Path("runs/zeolite")

atoms = starting_structure("sod")
atoms.calc = BayesianCalculator("silica", n_draws=16)
relaxed = blipcalc.relax(atoms, cell=True, fmax=0.02)
print(relaxed.table())
FOLDER.mkdir(parents=True, exist_ok=True)
plot_relaxed(relaxed, FOLDER / "sodalite.png", "sodalite")

atoms.calc = BayesianCalculator("silica", n_draws=8, dtype="float32", strategy="traced")
settings = {"ensemble": "npt-cell", "temperature_K": 300, "timestep_fs": 1.0, "tolerance": 1.0, "every": 20}
summary, _ = run_md(
    atoms, folder=FOLDER / "npt", time_ps=1.0, seed=1, keep_draws=True, write_every=10, progress=False, **settings
)
print(summary.status, f"{summary.time_ps:g} ps, {summary.temperature_K:.0f} K")
try:
    print(average(FOLDER / "npt", "density"))
except SamplingError as error:  # a picosecond is short
    print("density refused:", error)
