# %% [markdown]
# # From a relaxed molecule to a barrier with error bars
#
# Ethanol with the bundled model.  Run it as a script (two minutes of one core), or cell by cell in an editor that knows `# %%`.
#
# Everything rests on one thought: the posterior gives K smooth energy surfaces, made once.  Whatever is worked out on the
# surface that drives is worked out on each of them too, and the spread is the error bar.

# %%
from pathlib import Path

import numpy as np

from blipcalc import BayesianCalculator, relax
from blipcalc.files.bundled import starting_structure
from blipcalc.properties import barrier, dihedral_scan, energy_difference, vibrations
from blipcalc.properties.property_plots import plot_profile
from blipcalc.relaxation.relaxation_plot import plot_relaxed

folder = Path("runs/tutorial")
folder.mkdir(parents=True, exist_ok=True)
calculator = BayesianCalculator("rmd17", surface="centre", n_draws=16)

# %% [markdown]
# ## A minimum
#
# The relaxation stops where forces are as small as was asked for, or as small as the model knows them.  Then every draw is
# asked where *its* minimum is: to first order that takes one Hessian.

# %%
ethanol = starting_structure("ethanol")
ethanol.calc = calculator
relaxed = relax(ethanol, fmax=0.01)
print(relaxed.table())
plot_relaxed(relaxed, folder / "ethanol.png", "ethanol")

# %% [markdown]
# A bond length is known to a few 10⁻⁴ Å.  The positions themselves are known less well: soft torsions move hydrogen atoms
# about without changing a bond.

# %%
print("C–O         ", relaxed.distance(0, 2))
print("H–O–C–C     ", relaxed.dihedral(8, 2, 0, 1))
print("largest position error", relaxed.position_std.max().round(4), "Å, atom", int(relaxed.position_std.argmax()))

# %% [markdown]
# ## Is it a minimum, and how does it vibrate?
#
# Each draw vibrates around its own minimum.  Zero-point energy and free energy are formed draw by draw.

# %%
modes = vibrations(ethanol)
print("softest mode", modes.frequencies[0], " stiffest", modes.frequencies[-1])
print("zero-point energy", modes.zero_point_energy())

# %% [markdown]
# ## Two conformers
#
# Gauche and trans differ by some ten meV, and each total energy is known to half of that.  On every draw both energies are
# wrong by nearly the same amount, and the difference is known far better.

# %%
other = ethanol.copy()
other.calc = calculator
angle = ethanol.get_dihedral(8, 2, 0, 1)
other.set_dihedral(1, 0, 2, 8, 60.0 if abs(angle - 180) < 60 else 180.0, indices=[8])
conformers = energy_difference([(1.0, other), (-1.0, ethanol)], relax=True, name="the other conformer")
print(conformers.table())
print("in quadrature it would be ±", float(np.hypot(*conformers.energies.std)).__round__(4), "eV")

# %% [markdown]
# ## Along the torsion
#
# A scan gives the band first; where is the top, and is it known?

# %%
scan = dihedral_scan(ethanol, (2, 0, 1, 5), np.arange(-180, 180, 30), relax=True, fmax=0.03)
scan.plot(folder / "methyl.png", title="ethanol, methyl group")
print("by the scan", scan.barrier)

# %% [markdown]
# ## The barrier
#
# A climbing-image band on the surface that drives; all draws on its images; and, as a check, every draw at its own minima and
# saddle.  Both ends are the same molecule with its hydrogen atoms renamed: the reaction energy has to be zero.

# %%
end = ethanol.copy()
end.rotate_dihedral(2, 0, 1, 5, 120, indices=[5, 6, 7])
found = barrier([ethanol, end], calculator, reoptimize="points")
print(found.table())
low, high = found.reoptimized.forward.interval(0.95)
print(f"barrier between {1000 * low:.1f} and {1000 * high:.1f} meV with 95 %")
plot_profile(found, folder / "barrier.png", title="methyl rotation of ethanol")

# %% [markdown]
# ## What was not promised
#
# Error bars are the spread of the draws times what calibration found for forces.  That is no calibration of a bond length or a
# barrier: where twenty true values are at hand, `blipcalc.stats.estimate.conformal_factor` makes one.  And an error that all
# draws share, such as that of the functional which the data come from, is in none of them.
