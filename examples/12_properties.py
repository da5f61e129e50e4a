"""Derived quantities with error bars: a torsion, an equation of state, elastic constants, a vacancy."""

from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.lj import LennardJones

from blipcalc import BayesianCalculator, committee
from blipcalc.files.bundled import starting_structure
from blipcalc.properties import dihedral_scan, elastic_constants, equation_of_state, vacancy_energy

Path("runs").mkdir(exist_ok=True)

# the hydroxyl group of ethanol, turned about the C–O bond, everything else relaxed at each angle
ethanol = starting_structure("ethanol")
ethanol.calc = BayesianCalculator("rmd17", surface="centre", n_draws=16)
scan = dihedral_scan(ethanol, (1, 0, 2, 8), np.arange(-180, 180, 30), relax=True, fmax=0.03)
scan.plot("runs/torsion.png", title="ethanol, H–O–C–C")
low, high = scan.barrier.interval(0.95)
print(f"barrier {scan.barrier}, 95 % interval {low:.3f} … {high:.3f} eV, bias {scan.barrier.bias:+.4f} eV")
# energies of draw k are subtracted from energies of draw k: what all points share cancels
print(f"one total energy alone is known to ± {scan.energies.std[0]:.4f} eV")

# argon from an ensemble of Lennard-Jones parameters: 2 % in the depth, 0.5 % in the length
rng = np.random.default_rng(0)
depths, lengths = 0.0104 * rng.normal(1, 0.02, 6), 3.4 * rng.normal(1, 0.005, 6)
members = [
    LennardJones(epsilon=e, sigma=s, rc=3 * s, ro=2 * s, smooth=True) for e, s in zip(depths, lengths, strict=True)
]
argon = bulk("Ar", "fcc", a=5.26)
argon.calc = BayesianCalculator(committee(members), raw=True)
curve = equation_of_state(argon)
print("\n" + curve.table())
elastic = elastic_constants(argon)  # each draw at its own lattice constant
print("\n" + elastic.table())
scaled = (depths / lengths**3).std(ddof=1) / (depths / lengths**3).mean()
ratio = curve.bulk_modulus.std / curve.bulk_modulus.value
print(f"relative spread of the bulk modulus {ratio:.4f}; of ε/σ³, which it scales with, {scaled:.4f}")

crystal = bulk("Ar", "fcc", a=float(curve.lattice_constant.value), cubic=True).repeat(2)
crystal.calc = argon.calc
print("\n" + vacancy_energy(crystal).table())
