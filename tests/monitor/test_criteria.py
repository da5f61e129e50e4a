"""The rules, as pure functions of a reading."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blipcalc.errors import CalibrationError, ConfigurationError
from blipcalc.monitor.criteria import (
    AtomFraction,
    CalibratedTolerance,
    ElementThresholds,
    EnergyStdPerAtom,
    MaxAtomStd,
    NonFinite,
)
from blipcalc.monitor.decisions import Reading, gravest


def reading(std, *, symbols=None, mask=None, energy_std=0.1, failure=""):
    std = np.asarray(std, dtype=float)
    symbols = symbols or ("C",) * len(std)
    mask = np.ones(len(std), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    return Reading(7, tuple(symbols), std, energy_std, mask, failure)


def test_the_largest_counts_and_the_worst_come_first():
    decision = MaxAtomStd(0.3)(reading([0.1, 0.5, 0.3, 0.9], symbols="CHON"))
    assert decision.breached
    assert decision.atoms == (3, 1)
    assert (decision.value, decision.threshold, decision.unit, decision.step) == (0.9, 0.3, "eV/Å", 7)
    assert "atom 3 (N)" in decision.reason


def test_equal_to_the_threshold_passes():
    decision = MaxAtomStd(0.3)(reading([0.1, 0.3]))
    assert not decision.breached
    assert (decision.value, decision.atoms) == (0.3, ())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "rule",
    [
        MaxAtomStd(10.0),
        ElementThresholds({"C": 10.0}),
        ElementThresholds({"C": math.inf}),
        AtomFraction(10.0, 0.2),
        CalibratedTolerance(10.0, 2.0, 0.95, frozenset({6})),
    ],
)
def test_what_is_not_finite_fails_closed(rule, bad):
    if bad == math.inf and isinstance(rule, ElementThresholds) and rule.thresholds["C"] == math.inf:
        return  # as uncertain as it likes
    decision = rule(reading([0.1, bad, 0.2]))
    assert decision.breached
    assert decision.atoms == (1,)


def test_nan_comes_before_every_number():
    decision = MaxAtomStd(0.1)(reading([5.0, math.nan, math.inf, 0.2, math.nan]))
    assert decision.atoms == (1, 4, 2, 0, 3)
    assert math.isnan(decision.value)


def test_positive_control_the_usual_comparison_runs_on():
    std = reading([0.1, math.nan]).atom_std
    assert not std.max() > 0.3  # what most scripts ask
    assert MaxAtomStd(0.3)(reading(std)).breached


def test_atoms_that_do_not_count():
    rule = MaxAtomStd(0.3)
    assert not rule(reading([9.0, 0.1], mask=[False, True])).breached
    assert not rule(reading([math.nan, 0.1], mask=[False, True])).breached
    assert rule(reading([9.0, 0.4], mask=[False, True])).atoms == (1,)


@pytest.mark.parametrize("rule", [MaxAtomStd(0.3), ElementThresholds({"C": 0.3}), AtomFraction(0.3, 0.0)])
def test_nothing_to_watch_passes(rule):
    decision = rule(reading([9.0, math.nan], mask=[False, False]))
    assert not decision.breached
    assert decision.value == 0.0


def test_elements_have_their_own_thresholds():
    rule = ElementThresholds({"H": 0.1, "C": 0.5})
    assert not rule(reading([0.1, 0.5], symbols=("H", "C"))).breached
    decision = rule(reading([0.3, 0.6], symbols=("H", "C")))
    assert decision.atoms == (0, 1)  # by excess over the threshold, 3 and 1.2
    assert (decision.value, decision.threshold) == (0.3, 0.1)


def test_an_element_without_a_threshold_is_refused():
    with pytest.raises(ConfigurationError, match="no threshold for O"):
        ElementThresholds({"H": 0.1})(reading([0.1, 0.1], symbols=("H", "O")))
    with pytest.raises(ConfigurationError, match="chemical symbol"):
        ElementThresholds({"Hh": 0.1})


def test_fraction_of_atoms():
    rule = AtomFraction(0.3, 0.25)
    assert not rule(reading([0.4, 0.1, 0.1, 0.1])).breached
    decision = rule(reading([0.4, 0.6, 0.1, 0.1]))
    assert decision.breached
    assert (decision.atoms, decision.value) == ((1, 0), 0.5)
    assert rule(reading([0.4, 0.1, 0.1, 0.1], mask=[True, True, False, False])).breached


def test_energy_per_atom():
    rule = EnergyStdPerAtom(0.05)
    assert not rule(reading([1.0, 1.0], energy_std=0.1)).breached
    assert rule(reading([1.0], energy_std=0.1)).value == pytest.approx(0.1)
    assert rule(reading([1.0], energy_std=math.nan)).breached


def test_the_calibrated_rule(calibration):
    rule = CalibratedTolerance.from_calibration(calibration(q=2.0), 0.5)
    assert rule.largest_atom_std() == 0.25
    assert not rule(reading([0.25, 0.1])).breached
    decision = rule(reading([0.26, 0.1]))
    assert decision.breached
    assert (decision.value, decision.threshold) == (pytest.approx(0.52), 0.5)
    assert CalibratedTolerance.from_calibration(calibration(q=2.0), 0.5, level=0.9).largest_atom_std() == pytest.approx(
        0.3125
    )


def test_an_element_never_calibrated_is_named(calibration):
    rule = CalibratedTolerance.from_calibration(calibration(elements=(1, 6)), 0.5)
    decision = rule(reading([0.1, math.nan], symbols=("C", "O")))
    assert decision.breached
    assert "O was never calibrated" in decision.reason


def test_the_calibrated_rule_needs_a_calibration(calibration):
    with pytest.raises(CalibrationError, match="threshold="):
        CalibratedTolerance.from_calibration(None, 0.5)
    with pytest.raises(CalibrationError, match="level"):
        CalibratedTolerance.from_calibration(calibration(), 0.5, level=0.99)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_limits_are_positive_numbers(bad):
    for make in (MaxAtomStd, EnergyStdPerAtom, lambda t: AtomFraction(t, 0.1)):
        with pytest.raises(ConfigurationError):
            make(bad)
    with pytest.raises(ConfigurationError):
        AtomFraction(0.1, 1.0)


def test_failures_are_breaches_with_their_reason():
    decision = NonFinite()(reading([0.1], failure="forces not finite"))
    assert decision.breached
    assert decision.reason == "forces not finite"
    assert not NonFinite()(reading([0.1])).breached


def test_any_rule_is_enough():
    rules = [MaxAtomStd(1.0), EnergyStdPerAtom(0.01)]
    assert gravest([rule(reading([0.1], energy_std=0.1)) for rule in rules]).unit == "eV/atom"
    assert gravest([rule(reading([0.1], energy_std=0.001)) for rule in rules]).unit == "eV/Å"


values = st.lists(st.one_of(st.floats(0, 2), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=8)


@given(values, st.floats(0.01, 1.5))
def test_a_pass_means_that_every_atom_is_within(std, threshold):
    decision = MaxAtomStd(threshold)(reading(std))
    assert decision.breached != all(s <= threshold for s in std)
    assert set(decision.atoms) == {i for i, s in enumerate(std) if not s <= threshold}
