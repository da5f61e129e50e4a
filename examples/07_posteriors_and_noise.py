"""Error bars two ways: a posterior fitted to a network that is trained already, and heads that predict the noise of labels.

The same from the command line:  blipcalc train DATA -o p.blip --posterior point --epochs 40 --warm-epochs 0
                                 blipcalc train DATA -o l.blip --posterior laplace --start p.blip --epochs 0 --warm-epochs 0
                                 blipcalc train DATA -o h.blip --posterior ensemble --set training.objective=nll_jef --epochs 40
Thirty frames are enough to show the way, not to make a potential.
"""

import sys

import numpy as np

import blipcalc
from blipcalc import BayesianCalculator
from blipcalc.files.bundled import starting_structure

files = sys.argv[1:] or ["tests/data/rmd17_ethanol_30.npz"]
data = {"energy_unit": "kcal/mol", "validation": 0.2, "calibration": 0.0}
model = {"architecture": "race", "sizes": {"hidden": "8x0e+8x1o+8x2e", "layers": 2}}
training = {"epochs": 40, "batch_size": 4, "learning_rate": 3e-3, "warmup_steps": 20}

blipcalc.train(files, "runs/point.blip", data=data, model={**model, "posterior": "point"}, training=training)
laplace = blipcalc.train(
    files,
    "runs/laplace.blip",
    data=data,
    model={"posterior": "laplace"},
    start="runs/point.blip",
    training={"epochs": 0},
)
joint = blipcalc.train(
    files,
    "runs/joint.blip",
    data=data,
    model={**model, "posterior": "ensemble", "members": 2},
    training=training | {"objective": "nll_jef"},
)
atoms = starting_structure("ethanol")
for name, trained in (("Laplace", laplace), ("ensemble with heads", joint)):
    atoms.calc = BayesianCalculator(trained, n_draws=16 if trained is laplace else 2, raw=True)
    atoms.calc.get_property("atom_std", atoms)
    p = atoms.calc.prediction
    noise = np.zeros_like(p.forces_cov) if p.forces_cov_aleatoric is None else p.forces_cov_aleatoric
    parts = [np.sqrt(np.trace(c, axis1=1, axis2=2).mean() / 3) for c in (p.forces_cov, p.forces_cov_epistemic, noise)]
    print(f"{name}: {parts[0]:.3f} eV/Å in all, {parts[1]:.3f} between draws, {parts[2]:.3f} noise of the labels")
