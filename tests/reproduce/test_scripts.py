"""Protocols of the tables: what may be trained on what, and rows that are all of one kind."""

import os
from pathlib import Path

import numpy as np
import pytest
from ase.io import write

from blipcalc.core.prediction import SampleArrays
from blipcalc.data.labels import frame_hash, read_labelled
from blipcalc.errors import ConfigurationError
from blipcalc.learning.acquisition import CRITERIA
from blipcalc.training.config import DataConfig, TrainConfig
from blipcalc.training.plan import Plan
from blipcalc.training.prepare import prepare


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("name", ["3bpa", "ammonia", "ethanol", "aspirin"])
def test_every_row_is_a_plan(script, name, preset):
    """No row contradicts itself; what a row starts from is a row before it, deterministic, and of as many epochs."""
    posteriors = script("posteriors")
    rows = posteriors.recipes(posteriors.SETS[name], preset, 100, "cpu")
    for row, settings in rows.items():
        stages = {key: settings.get(key) for key in ("model", "training", "warm", "noise")}
        start = settings.get("start")
        if start is None:
            Plan.of(None, **stages, start=None)
        else:
            assert list(rows).index(start) < list(rows).index(row)
            assert rows[start]["model"]["posterior"] == "point"
            assert TrainConfig.of(rows[start]["training"]).epochs == 100
    # the control: Plan does refuse what cannot be
    with pytest.raises(ConfigurationError):
        Plan.of(None, {"posterior": "swag"}, {"epochs": 2}, None, None, None)
    headless = rows["point"]["model"]["sizes"] | {"heads": {"predict": "none"}}
    with pytest.raises(ConfigurationError, match="heads='joint', this one has 'none'"):
        Plan.of(None, rows["mve-jef"]["model"] | {"sizes": headless}, rows["mve-jef"]["training"], None, None, None)


def test_as_many_epochs_for_a_blip_as_for_an_ensemble(script):
    posteriors = script("posteriors")
    rows = posteriors.recipes(posteriors.SETS["3bpa"], "quick", 40, "cpu")
    ensemble, single, mixture = (rows[name] for name in ("ensemble-jef", "blip-jef-long", "mixture-jef-long"))
    cost = ensemble["model"]["members"] * ensemble["training"]["epochs"]
    assert single["warm"]["epochs"] == 2 * mixture["warm"]["epochs"] == cost == 400


@pytest.mark.data
def test_every_set_is_in_ev(script):
    """RMS forces of molecules at their temperatures, and no set of another size than the table says."""
    posteriors, folder = script("posteriors"), Path(os.environ["BLIPCALC_DATA"])
    sizes = {"300 K": 68, "600 K": 167, "1200 K": 166, "test": 500, "acetylacetone": 33,
             "md": 30, "inverted": 30, "stretched": 30, "hot": 40}  # fmt: skip
    for name, data in posteriors.SETS.items():
        for test, frames in (*data.tests.items(), ("calibration", data.calibration)):
            found = frames.read(folder)
            assert len(found) == sizes.get(test, len(found)), (name, test)
            rms = np.sqrt(np.mean([np.square(atoms.get_forces()).mean() for atoms in found]))
            assert 0.4 < rms < 4.0, (name, test, rms)


@pytest.mark.data
def test_chosen_frames_are_trained_on_and_never_tested_on(script, tmp_path):
    """n frames of each temperature, one in ten of them for validation, the old split as it was, and no frame in two places."""
    active, sets = script("active_learning"), script("posteriors").SETS
    folder = Path(os.environ["BLIPCALC_DATA"])
    data = sets["3bpa"]
    train = folder / data.train
    known = read_labelled(train)
    before = prepare([train], DataConfig(validation=data.validation, calibration=0.0)).split
    rng = np.random.default_rng(0)
    split = {name: active.halves(data.tests[name].read(folder), rng) for name in active.TEMPERATURES}
    pools, tests = ({name: halves[k] for name, halves in split.items()} for k in (0, 1))
    assert [len(pools["600 K"]) + len(tests["600 K"]), len(pools["1200 K"]) + len(tests["1200 K"])] == [167, 166]
    tested = {frame_hash(atoms) for part in tests.values() for atoms in part}
    assert not tested & {frame_hash(atoms) for atoms in known}
    noise = np.random.default_rng(1)
    samples = {name: [fake(noise, len(atoms)) for atoms in pool] for name, pool in pools.items()}
    sizes = {}
    for n in active.BUDGETS:
        for criterion in CRITERIA:
            chosen = active.acquired(criterion, n, pools, known, samples, seed=0)
            hashes = [frame_hash(atoms) for atoms in chosen]
            assert len(set(hashes)) == 2 * n
            of_pools = [sum(h in {frame_hash(a) for a in pool} for h in hashes) for pool in pools.values()]
            assert of_pools == [n, n]
            assert not tested & set(hashes)
        write(tmp_path / "new.xyz", chosen, format="extxyz")
        after = prepare([train, tmp_path / "new.xyz"], DataConfig(validation=data.validation, calibration=0.0)).split
        sizes[n] = len(after.train), len(after.validation)
        # nobody that was trained on selects now, or the other way round
        assert {frame_hash(a) for a in before.train} <= {frame_hash(a) for a in after.train}
        assert {frame_hash(a) for a in before.validation} <= {frame_hash(a) for a in after.validation}
    assert sizes == {10: (468, 52), 20: (486, 54), 40: (522, 58)}


def fake(rng, n_atoms, m=3):
    """Samples of a network that disagrees at random."""
    covariance = np.broadcast_to(0.01 * np.eye(3), (m, n_atoms, 3, 3))
    return SampleArrays(rng.normal(size=m), rng.normal(size=(m, n_atoms, 3)), None, None, np.ones(m), covariance)
