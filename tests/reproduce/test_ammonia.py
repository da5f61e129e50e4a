"""Ammonia from 64 frames near its minimum: what networks say where MD takes it and training did not (BLIP, §5.2)."""

import os
from pathlib import Path

import numpy as np
import pytest

from blipcalc.calibration.evaluation import evaluate_residuals
from blipcalc.calibration.fit import calibrate
from blipcalc.calibration.residuals import collect
from blipcalc.core.predictor_contract import Need
from blipcalc.predictor import BayesianPredictor
from blipcalc.stats.conformal import frame_maximum
from blipcalc.stats.ranks import auroc
from blipcalc.stats.scores import mae, nll
from blipcalc.training.train import train

MEMBERS = 5


@pytest.mark.slow
@pytest.mark.data
def test_an_ensemble_is_better_than_its_members_and_knows_where_it_is_worse(script, tmp_path):
    source = script("posteriors").SETS["ammonia"]
    made = train(
        Path(os.environ["BLIPCALC_DATA"]) / source.train,
        tmp_path / "ensemble.blip",
        data={"validation": source.validation, "calibration": 0.0} | source.keys,
        model={
            "architecture": "painn",
            "posterior": "ensemble",
            "members": MEMBERS,
            "sizes": {"features": 32, "interactions": 2},
        },
        training={"epochs": 120, "batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 50},
        folder=tmp_path / "run",
    )
    model = calibrate(made, source.calibration.read(None), n_draws=[MEMBERS])
    predictor = BayesianPredictor.load(model, n_draws=MEMBERS)
    frames = {name: part.read(None) for name, part in source.tests.items()}
    found = {name: collect(predictor, part) for name, part in frames.items()}
    md = found["md"]

    # the error of a mean is at most the mean of the errors
    truth = np.concatenate([atoms.get_forces() for atoms in frames["md"]])
    draws = np.concatenate([p.samples.forces for p in predictor(frames["md"], Need(samples=True))], axis=1)
    members = [mae(truth - forces) for forces in draws]
    assert mae(md.force_error) <= np.mean(members)
    assert mae(md.force_error) < 0.06

    # inside, error bars are worth more than the one number that would fit these very frames best
    inside = evaluate_residuals(md).forces
    assert inside.nll < nll(md.force_error, np.full_like(truth, np.square(md.force_error).mean()))
    assert inside.spearman > 0.2
    assert 0.85 < next(c.observed for c in inside.coverage if c.kind == "all" and c.level == 0.95) <= 1.0

    # outside, errors grow, and so does what the ensemble says of them; frames of the same kind are not told apart (the control)
    scores = {name: frame_maximum(r.atom_std, r.frame) for name, r in found.items()}
    for kind in ("inverted", "stretched", "hot"):
        assert mae(found[kind].force_error) > 1.5 * mae(md.force_error), kind
        assert auroc(scores["md"], scores[kind]) > 0.75, kind
    assert abs(auroc(scores["md"][::2], scores["md"][1::2]) - 0.5) < 0.3
