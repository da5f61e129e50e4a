"""Rules that remember, reading by reading."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blipcalc.errors import ConfigurationError
from blipcalc.monitor.criteria_set import CriteriaSet
from blipcalc.monitor.decisions import Decision, Reading
from blipcalc.monitor.run_criteria import ConsecutiveBreaches, EDetector, HaltRatio, InstantThreshold, SmoothedThreshold
from blipcalc.stats.series import moving_average

RATIO = HaltRatio({"H": 2.0, "O": 4.0}, tolerance=0.5)


def reading(std, step=0, symbols=("O", "H", "H"), mask=None):
    values = np.broadcast_to(np.asarray(std, dtype=float), len(symbols)).copy()
    moves = np.ones(len(symbols), dtype=bool) if mask is None else np.array(mask)
    return Reading(step, tuple(symbols), values, 0.01, moves)


def ratio_of(value):
    """A reading of water whose R is so much: the oxygen has it."""
    return reading([value * 0.5 / 4.0, 0.0, 0.0])


def test_the_ratio_is_that_of_each_element():
    r = reading([0.1, 0.2, 0.3])
    np.testing.assert_allclose(RATIO(r.symbols, r.atom_std), [0.8, 0.8, 1.2])
    assert (RATIO.largest(r), RATIO.worst(r)) == (pytest.approx(1.2), (2,))
    fixed = reading([9.0, 0.2, 0.1], mask=[False, True, True])
    assert RATIO.largest(fixed) == pytest.approx(0.8)
    assert math.isnan(RATIO.largest(reading(0.1, symbols=("O", "N"))))


def test_trip_halts_at_once_and_names_the_atom():
    rule = InstantThreshold(RATIO, 1.0)
    assert not rule(reading(0.1)).breached
    decision = rule(reading([0.1, 0.2, 0.3], step=7))
    assert (decision.breached, decision.atoms, decision.step, decision.halts) == (True, (2,), 7, True)
    assert "atom 2, H" in decision.reason
    assert rule(reading([0.1, math.nan, 0.1])).breached
    assert rule(reading(0.0, symbols=("N",))).breached  # never calibrated
    assert not rule(reading(9.0, mask=[False] * 3)).breached


def test_the_mean_is_that_of_the_series():
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=50))
    rule = SmoothedThreshold(RATIO, 8, 1.0)
    decisions = [rule(ratio_of(v)) for v in values]
    assert [v.value for v in decisions[:7]] == [0.0] * 7  # no whole window yet
    np.testing.assert_allclose([v.value for v in decisions[7:]], np.exp(moving_average(np.log(values), 8)), rtol=1e-12)


def test_a_mean_warns_at_a_lower_level_than_it_halts_at():
    rule = SmoothedThreshold(RATIO, 5, 1.0, warning=0.5)
    decisions = [rule(ratio_of(0.7)) for _ in range(5)] + [rule(ratio_of(2.0)) for _ in range(5)]
    assert [v.breached for v in decisions] == [False] * 4 + [True] * 6
    assert [v.halts for v in decisions[4:]] == [False] * 2 + [True] * 4  # 0.7³ 2² is 1.37
    assert [v.threshold for v in decisions[5:7]] == [0.5, 1.0]
    for _ in range(10):
        rule(ratio_of(0.1))
    assert not rule(ratio_of(0.1)).breached


def test_a_mean_with_not_a_number_breaches():
    rule = SmoothedThreshold(RATIO, 3, 1.0)
    for _ in range(3):
        rule(ratio_of(0.5))
    assert rule(ratio_of(math.nan)).breached


def test_evidence_takes_independent_checks_only_and_grows():
    rng = np.random.default_rng(1)
    rule = EDetector(RATIO, np.exp(rng.normal(size=500)), 10, 1000.0)
    quiet = [rule(ratio_of(v)) for v in np.exp(rng.normal(size=2000))]
    assert not any(v.breached for v in quiet)
    alarms = [rule(ratio_of(v)).breached for v in np.exp(3.0 + rng.normal(size=300))]
    first = alarms.index(True)
    assert first < 100
    assert (first + 2000 + 1) % 10 == 0
    assert not alarms[first + 1]  # begun anew
    assert any(rule(ratio_of(math.nan)).breached for _ in range(10))


@pytest.mark.parametrize("kind", ["smoothed", "evidence"])
def test_a_memory_goes_through_a_checkpoint(kind):
    rng = np.random.default_rng(2)
    reference, values = np.exp(rng.normal(size=400)), np.exp(0.5 + rng.normal(size=200))

    def made():
        return SmoothedThreshold(RATIO, 7, 1.2) if kind == "smoothed" else EDetector(RATIO, reference, 3, 50.0)

    whole, broken, again = made(), made(), made()
    expected = [whole(ratio_of(v)) for v in values]
    before = [broken(ratio_of(v)) for v in values[:90]]
    again.restore(broken.state())
    assert before + [again(ratio_of(v)) for v in values[90:]] == expected
    fresh = made()
    assert [fresh(ratio_of(v)) for v in values[90:]] != expected[90:]  # the control: without its memory it is another


def test_a_halt_goes_before_a_warning_and_everybody_is_asked():
    asked = []

    def rule(name, breached, halts):
        def answer(r):
            asked.append(name)
            return Decision(breached, (), 1.0, 0.0, "", name, halts=halts)

        return answer

    criteria = [rule("warning", True, False), rule("halt", True, True), rule("last", False, True)]
    found, _ = CriteriaSet(None, 0.95, None, None, criteria, ()).judge(ratio_of(1.0), [])
    assert (found.reason, asked) == ("halt", ["warning", "halt", "last"])


def test_patience_halts_at_the_last_of_so_many_checks_in_a_row():
    rule = ConsecutiveBreaches(InstantThreshold(RATIO, 1.0), 3, ceiling=2.0)
    values = [0.5, 1.5, 1.5, 0.5, 1.5, 1.5, 1.5, 1.5]
    decisions = [rule(ratio_of(v)) for v in values]
    assert [v.breached for v in decisions] == [v > 1 for v in values]
    assert [v.breached and v.halts for v in decisions] == [False] * 6 + [True] * 2
    assert "2 of 3 checks" in decisions[5].reason
    for at_once in (2.5, math.nan):  # no time to wait
        assert ConsecutiveBreaches(InstantThreshold(RATIO, 1.0), 3, ceiling=2.0)(ratio_of(at_once)).halts
    assert ConsecutiveBreaches(InstantThreshold(RATIO, 1.0), 3)(ratio_of(2.5)).halts is False
    for wrong in ({"checks": 0}, {"checks": 2, "ceiling": 0.5}):
        with pytest.raises(ConfigurationError):
            ConsecutiveBreaches(InstantThreshold(RATIO, 1.0), **wrong)


def test_patience_goes_through_a_checkpoint_with_its_rule():
    values = [1.5] * 6

    def made():
        return ConsecutiveBreaches(SmoothedThreshold(RATIO, 2, 1.0), 3)

    whole, broken, again = made(), made(), made()
    expected = [whole(ratio_of(v)) for v in values]
    before = [broken(ratio_of(v)) for v in values[:2]]
    again.restore(broken.state())
    assert before + [again(ratio_of(v)) for v in values[2:]] == expected
    assert [v.breached and v.halts for v in expected] == [False, False, False, True, True, True]
