"""Train a small mixture of BLIPs on labelled frames, calibrate it on held-out ones, evaluate it.

The same from the command line:  blipcalc train tests/data/rmd17_ethanol_30.npz -o my.blip --energy-unit kcal/mol …
Thirty frames are enough to show the way, not to make a potential.
"""

import sys

import blipcalc
from blipcalc.predictor import BayesianPredictor
from blipcalc.training.config import DataConfig
from blipcalc.training.prepare import prepare

files = sys.argv[1:] or ["tests/data/rmd17_ethanol_30.npz"]
data = DataConfig(energy_unit="kcal/mol", validation=0.2, calibration=0.4)
model = blipcalc.train(
    files,
    "runs/example.blip",
    data=data,
    model={"sizes": {"features": 32, "interactions": 2}},
    warm={"epochs": 40, "batch_size": 4},
    training={"epochs": 0},
    noise={"epochs": 20},
)
held_out = prepare(files, data).split.calibration
model = blipcalc.calibrate(model, held_out, n_draws=[16])
result = blipcalc.evaluate(BayesianPredictor.load(model, n_draws=16), held_out)
# on the frames of the calibration itself, so its mean z² is 1 by construction: evaluate yours on a test set
print(
    f"forces: MAE {1000 * result.forces.mae:.0f} meV/Å, CRPS {1000 * result.forces.crps:.0f} meV/Å, ZMS {result.forces.zms:.2f}"
)
