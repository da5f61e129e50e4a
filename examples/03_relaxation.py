"""Relax a molecule: bond lengths, energy and positions with error bars, and a picture of where each atom may be."""

from pathlib import Path

import blipcalc
from blipcalc import BayesianCalculator
from blipcalc.files.bundled import starting_structure
from blipcalc.relaxation.relaxation_plot import plot_relaxed

atoms = starting_structure("uracil")
atoms.rattle(0.02, seed=0)
atoms.calc = BayesianCalculator("rmd17", surface="centre", n_draws=16)
relaxed = blipcalc.relax(atoms, fmax=0.01, tolerance=1.0)
print(relaxed.table())

# anything else that has a value in a structure
print("ring angle   ", relaxed.angle(1, 2, 3))
# differences are formed draw by draw: what two bonds have in common cancels
print("C=O less C=O ", relaxed.distance(5, 7) - relaxed.distance(3, 6))

Path("runs").mkdir(exist_ok=True)
plot_relaxed(relaxed, "runs/uracil.png", "uracil")
