"""Relax a zeolite and its cell, with error bars on lattice parameters; then MD at constant pressure.

Sodalite was not among the six topologies that the bundled model learned from.
"""

from pathlib import Path

import blipcalc
from blipcalc import BayesianCalculator, run_md
from blipcalc.files.bundled import starting_structure
from blipcalc.relaxation.relaxation_plot import plot_relaxed

FOLDER = Path("runs/zeolite")

atoms = starting_structure("sod")
atoms.rattle(0.05, seed=0)  # of its full symmetry it is a saddle
atoms.calc = BayesianCalculator("silica", n_draws=16)
relaxed = blipcalc.relax(atoms, cell=True, fmax=0.01)
print(relaxed.table())
FOLDER.mkdir(parents=True, exist_ok=True)
plot_relaxed(relaxed, FOLDER / "sodalite.png", "sodalite")

atoms.calc = BayesianCalculator("silica", n_draws=8, dtype="float32", strategy="traced")
settings = {"ensemble": "npt-cell", "temperature_K": 300, "timestep_fs": 1.0, "tolerance": 1.0, "every": 50}
summary, _ = run_md(atoms, folder=FOLDER / "npt", time_ps=0.3, seed=1, write_every=10, progress=False, **settings)
print(f"{summary.status}: {summary.time_ps:g} ps at constant pressure, {atoms.get_volume():.0f} Å³ at the end")
