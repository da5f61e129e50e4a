"""The bundled silica model on frames that it was not trained on, and on zeolites that it never saw."""

import os
from pathlib import Path

import numpy as np
import pytest

from blipcalc.calibration.evaluation import evaluate_residuals
from blipcalc.calibration.residuals import collect, seen_in_training
from blipcalc.model_file.model_file import load
from blipcalc.predictor import BayesianPredictor


@pytest.mark.data
def test_topologies_seen_and_never_seen(script):
    """Force errors and coverage where it learned; elsewhere errors grow, and σ does not see it: what README admits."""
    frames_of, silica = script("silica_frames"), load("silica")
    folder = Path(os.environ["BLIPCALC_DATA"]) / "si_zeo22"

    def tests(topology):
        picked = frames_of.split(folder / f"{topology}.npz", topology)[1]
        return frames_of.frames(folder / f"{topology}.npz", picked[::8])

    seen, unseen = ([a for t in names for a in tests(t)] for names in (frames_of.SEEN, frames_of.UNSEEN))
    assert not seen_in_training(seen, silica.frames.tolist())
    predictor = BayesianPredictor.load(silica, n_draws=16, dtype="float32")
    inside, outside = (collect(predictor, frames) for frames in (seen, unseen))
    assert np.abs(inside.force_error).mean() <= 0.02
    (pooled,) = [c for c in evaluate_residuals(inside).forces.coverage if c.kind == "all" and c.level == 0.95]
    assert pooled.inside, pooled
    assert np.abs(outside.force_error).mean() > 1.1 * np.abs(inside.force_error).mean()
    (covers,) = [c for c in evaluate_residuals(outside).forces.coverage if c.kind == "all" and c.level == 0.95]
    assert 0.6 < covers.observed < 0.9, covers
