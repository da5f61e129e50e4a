"""Attach the bundled potential to a molecule and read energies, forces and their uncertainties."""

from blipcalc import BayesianCalculator
from blipcalc.files.bundled import starting_structure

atoms = starting_structure("ethanol")
atoms.calc = BayesianCalculator("rmd17", n_draws=16, seed=0)

energy = atoms.get_potential_energy()
energy_std = atoms.calc.get_property("energy_std", atoms)
print(f"energy {energy:.4f} ± {energy_std:.4f} eV")

forces = atoms.get_forces()
atom_std = atoms.calc.get_property("atom_std", atoms)
for symbol, force, std in zip(atoms.symbols, forces, atom_std, strict=True):
    print(f"{symbol:2s} {force[0]:8.3f} {force[1]:8.3f} {force[2]:8.3f}   ± {std:.4f} eV/Å per component")

# everything else, covariances and raw posterior values among it
prediction = atoms.calc.prediction
print("covariance of the force on atom 0, (eV/Å)²:\n", prediction.forces_cov[0])
print("posterior spread before calibration, eV/Å:", prediction.raw.atom_std.round(4))

# a stretched bond: the uncertainty says what the energy does not
atoms.set_distance(0, 1, 1.5 * atoms.get_distance(0, 1), fix=0)
print(
    "largest atom_std with the C–C bond stretched by half:", atoms.calc.get_property("atom_std", atoms).max().round(3)
)
