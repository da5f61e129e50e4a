"""ASE drops what it does not know when it writes files; ``blipcalc.write`` and ``blipcalc.read`` keep it."""

import blipcalc
from blipcalc.files.bundled import starting_structure

atoms = starting_structure("benzene")
atoms.calc = blipcalc.BayesianCalculator("rmd17")
atoms.get_forces()
atoms.calc.get_property("atom_std", atoms)
for path in ("runs/benzene.traj", "runs/benzene.xyz"):
    blipcalc.write(path, atoms)
    again = blipcalc.read(path, index=0)
    print(path, again.calc.get_property("atom_std", again).round(4)[:3])
