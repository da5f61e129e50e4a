"""Langevin MD that halts when the calibrated force error may exceed a tolerance."""

from pathlib import Path

import numpy as np
from ase import units
from ase.io import Trajectory
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from blipcalc import BayesianCalculator, UncertaintyMonitor
from blipcalc.files.bundled import starting_structure

Path("runs").mkdir(exist_ok=True)
rng = np.random.default_rng(0)
atoms = starting_structure("malonaldehyde")
# the centre surface drives the run; the 16 draws are evaluated at checks only
atoms.calc = BayesianCalculator("rmd17", n_draws=16, surface="centre", dtype="float32")
thermalize_momenta(atoms, temperature_K=300, rng=rng)

# fixcm=False: ASE's default samples a temperature that is too high by N/(N-1)
dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False, rng=rng)
monitor = UncertaintyMonitor(dynamics, tolerance=0.5, every=20, annotate=True, record_to="runs/breaches.traj")
dynamics.attach(Trajectory("runs/malonaldehyde.traj", "w", atoms), interval=20)

dynamics.run(1000)
print(monitor.status, "" if monitor.decision is None else monitor.decision.reason)
print("largest atom_std so far:", monitor.history["max_atom_std"].max(), "of", monitor.limit, "eV/Å")
monitor.plot("runs/malonaldehyde.png")
