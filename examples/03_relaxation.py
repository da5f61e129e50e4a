"""Relax a molecule, and see how well the force at the minimum is known."""

from ase.optimize import BFGS

from blipcalc import BayesianCalculator, UncertaintyMonitor
from blipcalc.bundle import starting_structure

atoms = starting_structure("uracil")
atoms.rattle(0.02, seed=0)
atoms.calc = BayesianCalculator("rmd17")
optimizer = BFGS(atoms, logfile=None)
monitor = UncertaintyMonitor(optimizer, tolerance=1.0)
optimizer.run(fmax=0.01, steps=200)

print(monitor.status, "after", optimizer.nsteps, "steps")
print(f"energy {atoms.get_potential_energy():.4f} ± {atoms.calc.get_property('energy_std', atoms):.4f} eV")
print(
    "below this the relaxation polishes noise: atom_std",
    atoms.calc.get_property("atom_std", atoms).max().round(4),
    "eV/Å",
)
