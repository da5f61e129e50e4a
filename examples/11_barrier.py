"""The barrier of the methyl group of ethanol with its error bar, on shared images and with every draw at its own saddle.

The end is the start with three hydrogen atoms renamed: the reaction energy must be zero, on every draw.
"""

from pathlib import Path

from ase.optimize import BFGS

from blipcalc import BayesianCalculator
from blipcalc.files.bundled import starting_structure
from blipcalc.properties import barrier
from blipcalc.properties.property_plots import plot_profile

start = starting_structure("ethanol")
calculator = start.calc = BayesianCalculator("rmd17", surface="centre", n_draws=8)
BFGS(start, logfile=None).run(fmax=0.01, steps=300)
end = start.copy()
end.rotate_dihedral(2, 0, 1, 5, 120, indices=[5, 6, 7])

found = barrier([start, end], calculator, optimizer=BFGS, reoptimize="points")
print(found.table())
low, high = found.reoptimized.forward.interval(0.95)
print(f"barrier between {1000 * low:.1f} and {1000 * high:.1f} meV with 95 %")
picture = Path("runs/barrier.png")
plot_profile(found, picture, title="methyl rotation of ethanol")
print("picture in", picture)
