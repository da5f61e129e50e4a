"""Error bars from any ASE calculators: here two levels of GFN-xTB (pip install 'blipcalc[xtb]')."""

from ase.build import molecule
from tblite.ase import TBLite

from blipcalc import BayesianCalculator, committee

atoms = molecule("CH3COOH")
members = [TBLite(method=method, accuracy=0.1, verbosity=0) for method in ("GFN1-xTB", "GFN2-xTB")]
atoms.calc = BayesianCalculator(committee(members), raw=True)
# energies of different methods stand on different references: read the forces
print("mean forces, eV/Å:\n", atoms.get_forces().round(3))
print("spread per atom, eV/Å:", atoms.calc.get_property("atom_std", atoms).round(3))
