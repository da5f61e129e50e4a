"""What labelled frames say of a reference run that is not like them: weighted, or nothing."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from blipcalc.core.prediction import Calibration, SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.monitor.fit_limits import check_reference
from blipcalc.monitor.limits import Limits


class Stretchy(Predictor):
    """Two atoms whose σ grows with the bond, and whose error grows faster: uncertain by exp(x), wrong by exp(1.5 x)."""

    species, n_draws, surface, has_stress, has_energies, heads, domain = (7,), 4, "centre", False, False, "none", None
    calibration = Calibration("centre", 4, 0, "m", {7: 1.0}, 1.0, {7: {0.95: 3.0}}, {0.95: 4.0}, 500, {7: 1000}, "f")

    def __call__(self, structures, need=Need()):
        found = []
        for atoms in structures:
            x = atoms.positions[1, 0] - 5.0
            spread = np.exp(x) * np.array([-1.5, -0.5, 0.5, 1.5])
            forces = spread[:, None, None] * np.ones((1, 2, 3))
            still = SampleArrays(np.zeros(1), np.zeros((1, 2, 3)))
            p = summarize(
                atoms.numbers,
                SampleArrays(energy=spread, forces=forces),
                centre=still,
            )
            found.append(self.calibration.apply(p))
        return found


def frames(shift, n, seed, labelled=False):
    rng, found = np.random.default_rng(seed), []
    for x in rng.normal(shift, 0.3, n):
        atoms = Atoms("N2", positions=[[0, 0, 0], [5 + x, 0, 0]])
        if labelled:
            error = rng.normal(size=(2, 3)) * np.exp(1.5 * x)
            atoms.calc = SinglePointCalculator(atoms, energy=rng.normal() * 0.1, forces=error)
        found.append(atoms)
    return found


def checked(shift, chance, n_labelled=1200):
    replicas = [frames(shift, 400, chance.seed(key)) for key in range(8)]
    return check_reference(
        Stretchy(), replicas, interval_fs=50.0, tolerance=30.0, rate_per_ns=60.0, criteria=("trip",),
        labelled=frames(0.0, n_labelled, chance.seed(99), labelled=True),
    )  # fmt: skip


@pytest.mark.chance(4)
def test_a_mild_shift_is_weighted_and_the_quantile_holds_there(tmp_path, chance):
    limits = checked(0.25, chance, chance.times(1200))
    found = limits.frames
    assert found.effective > 300
    assert found.quantile > found.plain  # where bonds are longer, errors are more than σ says
    fresh = frames(0.25, chance.times(4000), chance.seed(5), labelled=True)
    predictions = Stretchy()(fresh)
    score = [
        (np.linalg.norm(a.get_forces(), axis=1) / p.atom_std).max() for a, p in zip(fresh, predictions, strict=True)
    ]
    assert np.mean(np.array(score) <= found.quantile) == pytest.approx(0.95, abs=0.035)
    assert np.mean(np.array(score) <= found.plain) < np.mean(np.array(score) <= found.quantile)  # the control
    limits.save(tmp_path / "l.json")
    assert Limits.load(tmp_path / "l.json").frames == found


@pytest.mark.chance(3)
def test_a_large_shift_has_no_statement(chance):
    found = checked(0.9, chance).frames
    assert found.quantile is None
    assert found.effective < 300
    assert checked(0.0, chance, n_labelled=200).frames.quantile is None  # too few to begin with
