"""Frequencies of ethanol with error bars, and the energies that follow from them."""

from ase.optimize import BFGS

from blipcalc import BayesianCalculator
from blipcalc.files.bundled import starting_structure
from blipcalc.properties import vibrations

atoms = starting_structure("ethanol")
atoms.calc = BayesianCalculator("rmd17", surface="centre", n_draws=8)
BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)

# every draw vibrates around its own minimum
found = vibrations(atoms)
print(found.table())
print("zero-point energy", found.zero_point_energy())
print("free energy of the vibrations at 300 K", found.free_energy(300.0))
print("Gibbs energy of the ideal gas at 300 K, 1 atm", found.gibbs_energy(300.0, symmetry_number=1))
stretch = found.frequencies[-1]
low, high = stretch.interval(0.95)
print(f"O-H stretch {stretch}: between {low:.0f} and {high:.0f} with 95 %, bias {stretch.bias:+.1f} cm⁻¹")

# one Hessian point for all draws is cheaper, and leaves out that each of them rests elsewhere
shared = vibrations(atoms, at="shared")
ratio = shared.frequencies.std / found.frequencies.std
print(f"error bars at one shared structure: {ratio.min():.2f} to {ratio.max():.2f} times those")
