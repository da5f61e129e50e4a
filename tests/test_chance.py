"""The budget of chance: its arithmetic, the second stage, and a suite that grows beyond it."""

from __future__ import annotations

import numpy as np
import pytest
from chance import BUDGET, COMPARISONS, LONGER, Chance, Seeds
from scipy.stats import norm

pytest_plugins = ["pytester"]


@pytest.mark.parametrize("comparisons", [1, 4, 30])
def test_both_stages_together_keep_to_the_share(comparisons):
    two = Chance(0, comparisons)
    assert (comparisons * two.p) ** 2 == pytest.approx(comparisons * BUDGET / COMPARISONS)
    one = Chance(0, comparisons, stages=1)
    assert one.p * COMPARISONS == pytest.approx(BUDGET)
    assert two.sigmas < one.sigmas < 5.5


def test_bounds_are_the_tails_of_their_laws():
    chance = Chance(0, 1)
    assert chance.sigmas == pytest.approx(3.6908, abs=2e-3)
    assert chance.student(1e9) == pytest.approx(chance.sigmas, rel=1e-6)
    assert chance.student(9) > 1.4 * chance.sigmas
    low, high = chance.counts(10**6, 0.5)
    assert (high - 500_000) / 500 == pytest.approx(chance.sigmas, abs=0.01)
    assert low + high == 10**6
    assert chance.events(1e6)[1] == pytest.approx(1e6 + 1000 * chance.sigmas, abs=10)
    # a tolerance that holds in 99 % of first stages
    assert norm.sf(2 * norm.isf(0.005)) * 2 * 0.01 < BUDGET / COMPARISONS


def test_seeds_differ_by_offset_stage_and_key():
    first, second = Chance(0, 1), Chance(0, 1)
    second.again()
    all_of_them = {s.seed(key) for s in (first, second, Seeds(1)) for key in (0, 1)}
    assert len(all_of_them) == 6
    assert first.seed() == Chance(0, 7).seed()
    assert (first.times(10), second.times(10)) == (10, 10 * LONGER)


SUITE = """
import pytest
from chance import *

@pytest.mark.chance(2)
def test_fails_once(chance):
    assert chance.stage == 2

@pytest.mark.chance(2)
def test_fails_twice(chance):
    assert chance.times(1) == 0

@pytest.mark.chance(2, stages=1)
def test_has_no_second_stage(chance):
    assert chance.stage == 2

@pytest.mark.chance(1)
def test_other_errors_are_not_chance(chance):
    if chance.stage == 1:
        raise ValueError

def test_says_nothing(chance):
    pass

@pytest.mark.chance({many})
def test_takes_the_rest(seeds):
    assert seeds.offset == 3
"""


@pytest.mark.parametrize(("spare", "outcome"), [(0, {"passed": 2, "failed": 3, "errors": 1}), (-1, None)])
def test_stages_and_the_number_of_comparisons(pytester, spare, outcome):
    pytester.makeini("[pytest]\nmarkers = chance")
    pytester.makeconftest("from chance import *\nfrom chance import pytest_pyfunc_call")
    pytester.makepyfile(SUITE.replace("from chance import *", "").format(many=COMPARISONS - 7 - spare))
    result = pytester.runpytest("--seed-offset", "3")
    if outcome is None:
        result.stderr.fnmatch_lines([f"*{COMPARISONS + 1} comparisons with chance*"])
    else:
        result.assert_outcomes(**outcome)


def test_normal_values_keep_to_the_bound(seeds):
    """Of a million comparisons at 3.7 deviates some 224 are beyond."""
    beyond = np.abs(seeds.rng().normal(size=10**6)) > Chance(0, 1).sigmas
    assert 120 < beyond.sum() < 330
