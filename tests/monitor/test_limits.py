"""Limits from a reference run: what they promise is what happens."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from scipy.signal import lfilter
from scipy.stats import beta, poisson

from blipcalc.errors import ConfigurationError, DamagedFileError, LimitsError
from blipcalc.monitor.decisions import Reading
from blipcalc.monitor.limits import Limits, fit_limits
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.monitor.run_criteria import EDetector, InstantThreshold, SmoothedThreshold
from blipcalc.stats.rates import events_at_risk, same_rate
from blipcalc.stats.series import block_maxima, moving_average

INTERVAL = 50.0  # fs
PS, NS = 20, 20_000  # checks
Q = {"H": 2.0, "C": 2.0, "O": 2.0}


def series(n, replicas, seed, shift=-1.0, parts=((0.7, 0.1), (0.3, 5.0))):
    """R of a signal that remembers 0.1 and 5 ps (the bench of tests/benchmarks/monitor_rules.py, checked every 50 fs)."""
    rng, total = np.random.default_rng(seed), 0.0
    for share, tau in parts:
        phi = math.exp(-1 / (tau * PS))
        noise = rng.normal(size=(replicas, n)) * math.sqrt(1 - phi**2)
        noise[:, 0] = rng.normal(size=replicas)
        total = total + math.sqrt(share) * lfilter([1.0], [1.0, -phi], noise, axis=1)
    return list(np.exp(shift + 0.3 * total))


def fitted(calibration, replicas, **settings):
    settings = {"tolerance": 0.5, "rate_per_ns": 1.0, "interval_fs": INTERVAL} | settings
    interval = settings.pop("interval_fs")
    return fit_limits({"ratio": replicas}, interval, calibration(), Q, **settings)


@pytest.fixture(scope="module")
def reference():
    return series(2 * NS, 10, seed=0)


@pytest.fixture
def limits(calibration, reference):
    return fitted(calibration, reference)


def observed(beyond, memory_ps):
    """Events and the ns at risk of replicas, see :func:`events_at_risk`."""
    counts = [events_at_risk(row, round(memory_ps * PS)) for row in beyond]
    return sum(events for events, _ in counts), sum(at_risk for _, at_risk in counts) / NS


@pytest.mark.chance(6)
def test_predicted_and_observed_rates_agree(calibration, chance):
    """On 100 further ns: each channel by itself is as rare as was expected of it, and all together rarer than was wanted."""
    n = chance.times(10)
    reference = series(2 * NS, n, chance.seed())
    limits = fitted(calibration, reference)
    fresh, memory = series(2 * NS, 5 * n, chance.seed(1)), limits.inefficiency_ps
    trips = observed([r > limits["trip"].limit.value for r in fresh], memory)
    means = observed([moving_average(np.log(r), PS) > limits["smoothed"].limit.value for r in fresh], memory)
    for found, level in ((trips, limits["trip"].limit), (means, limits["smoothed"].limit)):
        assert same_rate(*found, level.n_beyond, level.exposure) > chance.p
        assert level.bound <= limits.rate_per_ns / len(limits.criteria)
    assert trips[0] / trips[1] + means[0] / means[1] <= limits.rate_per_ns
    crossed = observed([r > 1.0 for r in fresh], memory)
    assert same_rate(*crossed, limits.at_tolerance.n_beyond, limits.at_tolerance.exposure) > chance.p
    # the control: a quantile of single checks at the same rate per check stops far more often
    naive = np.quantile(np.concatenate(reference), 1 - 20.0 / NS)
    events, at_risk = observed([r > naive for r in fresh], memory)
    assert events / at_risk > 5 * limits.rate_per_ns


@pytest.mark.parametrize("wanted", [240.0, 100.0, 20.0])
@pytest.mark.chance(2)
def test_many_halts_per_ns_are_as_many_as_was_said(calibration, wanted, chance):
    """A signal that remembers 0.1 ps, in blocks of 2 ps: up to one halt in every second block."""
    parts, n = ((1.0, 0.1),), chance.times(10)
    limits = fitted(calibration, series(2 * NS, n, chance.seed(), parts=parts), rate_per_ns=wanted, criteria=["trip"])
    assert limits.block_ps == pytest.approx(2.0)
    assert limits.expected_rate <= limits["trip"].limit.bound <= wanted
    fresh = series(2 * NS, 5 * n, chance.seed(1), parts=parts)
    events, ns = observed([r > limits["trip"].limit.value for r in fresh], limits.inefficiency_ps)
    # tails of the events that the law of the probability of a block predicts
    level, share = limits["trip"].limit, (np.arange(500) + 0.5) / 500
    rates = -np.log1p(-beta.ppf(share, level.n_beyond, level.n_blocks + 1 - level.n_beyond)) / limits.block_ps * 1e3
    tails = [poisson.cdf(events, rates * ns).mean(), poisson.sf(events - 1, rates * ns).mean()]
    assert min(tails) > chance.p / 2
    # the control: a probability taken for a rate promises too little
    taken = beta.ppf(0.95, level.n_beyond, level.n_blocks + 1 - level.n_beyond) / limits.block_ps * 1e3
    assert wanted < 200 or poisson.sf(events, taken * ns) < 1e-50


def test_channels_are_those_of_the_series(limits):
    """The rules, fed reading by reading, say what the arrays that they were calibrated on say."""
    trip, smoothed, evidence = limits.rules()
    assert (type(trip), type(smoothed), type(evidence)) == (InstantThreshold, SmoothedThreshold, EDetector)
    (values,) = series(4000, 1, seed=3, shift=-0.2)
    std = values * limits.tolerance / 2.0
    readings = [Reading(i, ("H",), np.array([s]), 0.0, np.ones(1, dtype=bool)) for i, s in enumerate(std)]
    assert [trip(r).breached for r in readings] == (values > limits["trip"].limit.value).tolist()
    found, means = [smoothed(r) for r in readings][PS - 1 :], moving_average(np.log(values), PS)
    assert [v.breached for v in found] == (means > limits["smoothed"].warning.value).tolist()
    assert [v.breached and v.halts for v in found] == (means > limits["smoothed"].limit.value).tolist()
    assert evidence.every == round(limits.inefficiency_ps * PS)
    alarms = 1e6 / (evidence.run_length * evidence.every * INTERVAL)
    assert alarms == pytest.approx(limits.rate_per_ns / 3)


@pytest.mark.chance(1)
def test_blocks_are_longer_than_the_memory(calibration, chance):
    n = chance.times(10)
    reference = series(2 * NS, n, chance.seed())
    limits = fitted(calibration, reference)
    assert limits.inefficiency_ps == pytest.approx(3.14, rel=0.3)
    assert 2 * limits.inefficiency_ps <= limits.block_ps + 0.05 <= 2.1 * limits.inefficiency_ps
    assert limits.reference_ns == pytest.approx(2.0 * n, rel=0.01)
    maxima = block_maxima(reference, round(limits.block_ps * PS))
    assert limits.at_tolerance.n_beyond == np.count_nonzero(maxima > 1.0)


def test_a_claim_that_the_data_cannot_carry_is_refused(calibration, reference):
    with pytest.raises(
        LimitsError, match=r"20 ns of reference cannot carry 0\.1 false alarms per ns: 1\d\d ns are needed"
    ):
        fitted(calibration, reference, rate_per_ns=0.1)
    # one channel alone needs 3.0 / rate
    alone = fitted(calibration, reference, rate_per_ns=0.155, criteria=["trip"])
    assert alone["trip"].limit.n_beyond == 1
    with pytest.raises(LimitsError, match=r"ask for 0\.15 per ns"):
        fitted(calibration, reference, rate_per_ns=0.14, criteria=["trip"])


@pytest.mark.chance(1)
def test_many_short_replicas_count(calibration, chance):
    n = chance.times(30)
    short = fitted(calibration, series(200, 200 * n, chance.seed()), rate_per_ns=1.0)  # 10 ps each, 60 ns in all
    assert short.reference_ns == pytest.approx(2.0 * n)
    assert short.block_ps == pytest.approx(10.0)
    whole = fitted(calibration, series(2 * NS, n, chance.seed(1)), rate_per_ns=1.0)
    assert short["trip"].limit.value == pytest.approx(whole["trip"].limit.value, rel=0.25)
    with pytest.raises(LimitsError, match="for longer than that: replicas take two memories, of 1 ps at least"):
        fitted(calibration, series(15, 2000, seed=4))


def test_too_few_independent_checks_leave_evidence_out(calibration):
    small = fitted(calibration, series(2000, 4, seed=6), rate_per_ns=100.0)
    assert "evidence" not in small
    assert "300 are needed" in small.notes[-1]
    assert len(small.rules()) == 2


@pytest.mark.parametrize("bad", [[np.array([0.1, math.nan] * 40)], [np.array([-1.0] * 80)], []])
def test_r_that_is_no_ratio_is_refused(calibration, bad):
    with pytest.raises(LimitsError):
        fitted(calibration, bad)


@pytest.mark.parametrize(
    "wrong", [{"rate_per_ns": 0.0}, {"confidence": 1.0}, {"interval_fs": -1.0}, {"criteria": ["x"]}, {"criteria": []}]
)
def test_senseless_settings_are_refused(calibration, reference, wrong):
    with pytest.raises(ConfigurationError):
        fitted(calibration, reference, **wrong)


def test_a_file_gives_them_back(limits, tmp_path):
    limits.save(tmp_path / "limits.json")
    assert Limits.load(tmp_path / "limits.json") == limits
    with pytest.raises(LimitsError, match="blipcalc check"):
        Limits.load(tmp_path / "none.json")
    text = json.loads((tmp_path / "limits.json").read_text())
    (tmp_path / "edited.json").write_text(json.dumps(text | {"tolerance": 2 * limits.tolerance}))
    with pytest.raises(DamagedFileError, match=r"changed since it was written.*not edited by hand; .*blipcalc check"):
        Limits.load(tmp_path / "edited.json")
    (tmp_path / "laid out anew.json").write_text(json.dumps(text, indent=4, sort_keys=True))
    assert Limits.load(tmp_path / "laid out anew.json") == limits


def test_a_tolerance_that_every_block_passes_is_passed_at_every_check_at_most(calibration, tmp_path):
    """Its rate is at least one in a block; how much more often it is passed, maxima of blocks do not say."""
    found = fitted(calibration, series(2 * NS, 4, seed=0, shift=2.0), rate_per_ns=3.0, criteria=["trip"])
    now, most = found.at_tolerance, 1e6 / INTERVAL
    assert (now.n_beyond, now.bound, now.interval[1]) == (now.n_blocks, most, most)
    assert 1e3 / found.block_ps < now.rate < most
    found.save(tmp_path / "limits.json")
    assert Limits.load(tmp_path / "limits.json") == found


def verlet(atoms, timestep_fs=1.0):
    return VelocityVerlet(atoms, timestep_fs * units.fs)


def test_a_monitor_with_limits(scripted, calibration, limits, tmp_path):
    """It checks at their interval, and halts where R passes the limit of the trip channel."""
    beyond = limits["trip"].limit.value * limits.tolerance / 2.0
    atoms = scripted(lambda step: 1.01 * beyond if step >= 120 else 0.5 * beyond, calibration=calibration())
    limits.save(tmp_path / "limits.json")
    dynamics = verlet(atoms)
    monitor = UncertaintyMonitor(dynamics, limits=tmp_path / "limits.json")
    assert monitor.every == 50
    dynamics.run(400)
    assert (monitor.status, dynamics.nsteps) == ("halted", 150)
    assert monitor.decision.unit == "of the tolerance"


def test_a_warning_does_not_halt(scripted, calibration, limits, caplog):
    only = limits.model_copy(update={"criteria": (limits["smoothed"],)})
    assert limits["smoothed"].warning.value < limits["smoothed"].limit.value
    between = (
        math.exp(0.5 * (limits["smoothed"].warning.value + limits["smoothed"].limit.value)) * limits.tolerance / 2.0
    )
    atoms = scripted(lambda step: between if step <= 100 else 2 * between, calibration=calibration())
    dynamics = verlet(atoms, 25.0)
    monitor = UncertaintyMonitor(dynamics, limits=only, fault_checks=())
    dynamics.run(2 * 50)
    assert (monitor.status, monitor.decision.breached, monitor.decision.halts) == ("finished", True, False)
    assert len(caplog.records) == 1
    dynamics.run(2 * 20)
    assert monitor.status == "halted"


def test_limits_belong_to_their_calculator_and_interval(scripted, calibration, limits):
    atoms = scripted([0.01], calibration=replace(calibration(), model_hash="other"))
    with pytest.raises(LimitsError, match="model_hash is 'other', expected 'm'"):
        UncertaintyMonitor(verlet(atoms), limits=limits)
    with pytest.raises(LimitsError, match="no calibration"):
        UncertaintyMonitor(verlet(scripted([0.01])), limits=limits)
    good = scripted([0.01], calibration=calibration())
    with pytest.raises(LimitsError, match="whole number of steps"):
        UncertaintyMonitor(verlet(good, 0.7), limits=limits)
    with pytest.raises(LimitsError, match="every=50 here, not 10"):
        UncertaintyMonitor(verlet(good), limits=limits, every=10)
    with pytest.raises(ConfigurationError, match="optimiser"):
        UncertaintyMonitor(BFGS(good), limits=limits)
    with pytest.raises(ConfigurationError, match="one of"):
        UncertaintyMonitor(verlet(good), limits=limits, tolerance=0.5)
    assert UncertaintyMonitor(verlet(good), limits=limits, every=50).every == 50


def test_a_rate_that_means_nothing_is_refused(calibration, reference):
    """More than one halt in two blocks: a maximum of a block does not count them."""
    with pytest.raises(LimitsError, match="which no limit can mean; ask for"):
        fitted(calibration, reference, rate_per_ns=5000.0)


def test_no_channel_is_no_guard(calibration):
    with pytest.raises(LimitsError, match="no criterion is left"):
        fitted(calibration, series(2000, 4, seed=6), rate_per_ns=30.0, criteria=["evidence"])
    with pytest.raises(LimitsError, match="cannot carry"):  # an e-detector takes as long a reference as the others
        fitted(calibration, series(20_000, 4, seed=6), rate_per_ns=0.1, criteria=["evidence"])


def test_one_short_replica_spoils_nothing_and_only_short_ones_are_refused(calibration, reference):
    whole, mixed = fitted(calibration, reference), fitted(calibration, [*reference, *series(30, 1, seed=9)])
    assert mixed.inefficiency_ps == pytest.approx(whole.inefficiency_ps, rel=0.05)
    assert mixed["trip"].limit.value == pytest.approx(whole["trip"].limit.value, rel=1e-3)
    assert "1 replicas shorter" in mixed.notes[-1]
    with pytest.raises(LimitsError, match="remembers"):
        fitted(calibration, series(60, 2000, seed=4))  # 3 ps each


def test_replicas_that_are_the_same_are_one(calibration, reference):
    with pytest.raises(LimitsError, match="the same, value by value"):
        fitted(calibration, [*reference, reference[0]])


@pytest.mark.chance(1)
def test_single_block_replicas_book_the_time_that_their_means_cover(calibration, chance):
    """10 ps replicas are one block of 2 g each, and 9 ps of means; the bound of the smoothed channel holds on fresh data."""
    short = fitted(calibration, series(200, 6000, chance.seed()), rate_per_ns=3.0, criteria=["smoothed"])
    assert short["smoothed"].limit.exposure == pytest.approx(6000 * 181 * INTERVAL / 1e6)
    n = chance.times(40)
    fresh = series(2 * NS, n, chance.seed(1))
    events, ns = observed(
        [moving_average(np.log(r), PS) > short["smoothed"].limit.value for r in fresh], short.inefficiency_ps
    )
    assert events <= chance.events(1.2 * short["smoothed"].limit.bound * ns)[1]
