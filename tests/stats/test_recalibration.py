"""The RACE paper's calibration error and score, and maps that repair what can be repaired."""

from __future__ import annotations

import numpy as np
import pytest

from blipcalc.stats.conformal import conformal_quantile
from blipcalc.stats.recalibration import IsotonicRecalibration
from blipcalc.stats.scores import LEVELS, ce_central, composite_score, coverage_of, zms


def gaussian(n=20_000, seed=0, factor=1.0, shift=0.0):
    """Errors, and variances that are wrong by a factor on the standard deviation, with a shift in units of it."""
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.5, 2.0, n)
    return sigma * (rng.normal(size=n) + shift), (sigma * factor) ** 2


@pytest.mark.chance(1)
def test_calibration_error_has_its_ends(chance):
    e, v = gaussian(chance.times(20_000), chance.seed())
    # the largest deviation of a distribution of n values is beyond c / √n with a probability below 2 exp(-2 c²)
    assert ce_central(e, v) < 0.5 * np.log(2 / chance.p) / len(e)
    assert ce_central(e, 0.0 * v) == pytest.approx(0.3317, abs=5e-5)
    assert ce_central(e, 1e12 * v) == pytest.approx(0.3317, abs=5e-5)
    assert ce_central(np.zeros(5), np.ones(5)) == pytest.approx(((1 - LEVELS) ** 2).mean())
    # with 21 levels, 0 and 1 among them, it is another number
    assert np.mean(
        (np.linspace(0, 1, 21) - coverage_of(np.abs(e) / 1e-9, np.linspace(0, 1, 21))) ** 2
    ) != pytest.approx(0.3317, abs=5e-3)


def test_calibration_error_refuses_what_is_no_variance():
    for v in ([1.0, -1.0], [1.0, np.nan], [1.0]):
        with pytest.raises(ValueError, match="expected"):
            ce_central([0.1, 0.2], v)


@pytest.mark.parametrize(
    ("energy", "forces", "auroc", "printed"),
    [(0.28, 0.62, 0.50, 5.30), (0.97, 0.62, 1.0, 9.16), (0.14, 0.53, 1.0, 3.88)],
)
def test_composite_score_without_calibration_terms_is_what_the_paper_prints(energy, forces, auroc, printed):
    assert composite_score(energy, forces, auroc) == pytest.approx(printed, abs=0.05)


@pytest.mark.chance(2)
@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0])
def test_one_factor_is_found_again(factor, chance):
    n = chance.times(20_000)
    e, v = gaussian(n, chance.seed(), factor=factor)
    found = zms(e, v)
    assert found == pytest.approx(factor**-2, rel=chance.sigmas * np.sqrt(2 / n))
    other = gaussian(n, chance.seed(1), factor=factor)
    assert ce_central(other[0], found * other[1]) < 1e-3 < ce_central(*other) + (factor == 1.0)


@pytest.mark.chance(3)
def test_isotonic_map_repairs_scale_and_shift_on_other_data(chance):
    fit, test = (gaussian(chance.times(20_000), chance.seed(k), factor=0.4, shift=0.7) for k in (0, 1))
    recalibration = IsotonicRecalibration.fit(*fit)
    assert ce_central(*test) > 0.02
    assert recalibration.ce(*test) < 3e-4
    # a factor alone cannot mend a shift
    assert ce_central(test[0], zms(*fit) * test[1]) > recalibration.ce(*test)


def test_isotonic_map_is_monotone_from_zero_to_one():
    recalibration = IsotonicRecalibration.fit(*gaussian(500, factor=2.0))
    values = recalibration(np.linspace(0, 1, 1001))
    assert (np.diff(values) >= 0).all()
    assert values[0] == 0.0
    assert values[-1] == 1.0


def test_isotonic_map_cannot_repair_what_lies_beyond_every_interval():
    """All references ten thousand deviations off: the observed coverage is zero at every level, and stays so."""
    error, variance = 1e4 * np.random.default_rng(0).choice([-1.0, 1.0], 1000), np.ones(1000)
    recalibration = IsotonicRecalibration.fit(error, variance)
    assert ce_central(error, variance) == pytest.approx(0.3317, abs=5e-5)
    assert recalibration.ce(error, variance) == pytest.approx(0.3317, abs=5e-5)


@pytest.mark.chance(1)
def test_conformal_quantile_covers_whatever_the_distribution(chance):
    rng = chance.rng()
    covered = []
    for _ in range(chance.times(300)):
        scores = np.abs(rng.standard_t(2, size=120)) * rng.uniform(0.5, 1.5, 120)
        covered.append(np.mean(scores[60:] <= conformal_quantile(scores[:60], 0.9)))
    assert np.mean(covered) >= 0.9 - chance.sigmas * np.std(covered) / np.sqrt(len(covered))
