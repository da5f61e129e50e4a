"""Scripted faults in a few replicas: what is to be seen within a picosecond is, and what σ cannot see something else does."""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from blipcalc.monitor.decisions import Reading
from blipcalc.monitor.fault_checks import KineticJump, Leap, TooClose
from blipcalc.monitor.stuck import StuckUncertainty

FOLDER = Path(__file__).parents[1] / "benchmarks"
REPLICAS, RATE = 60, 20.0
SIGMA_CHANNELS = ("trip", "smoothed", "evidence")


@pytest.fixture(scope="module")
def script():
    """name -> a script of the benchmarks as a module; they import each other by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        before = set(sys.modules)
        yield importlib.import_module
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "").parent.name in ("benchmarks", "reproduce"):
                del sys.modules[name]


@pytest.fixture(scope="module")
def faulty(script):
    return script("scripted_faults")


@pytest.fixture(scope="module")
def bench(script):
    return script("fault_delays")


@pytest.fixture(scope="module")
def known(faulty):
    return faulty.learn(replicas=20, frames=10)


@pytest.fixture(scope="module")
def quiet(bench, faulty, known, seeds):
    """Limits, the cluster that they were made with, and what it did in 3 ps after."""
    cluster = bench.warm(REPLICAS, seeds.seed())
    made = faulty.watch(cluster, known, 20 * faulty.PS)
    limits = bench.limits_of(made, RATE)
    return limits, cluster, faulty.watch(cluster, known, 3 * faulty.PS)


@pytest.fixture(scope="module")
def changed(bench, faulty, known, quiet):
    """(change, ps) -> {channel: delays in ps}, and the signals."""
    limits, cluster, history = quiet

    def run(change, ps=2):
        signals = bench.joined([history, faulty.watch(copy.deepcopy(cluster), known, ps * faulty.PS, change)])
        return bench.of_channels(limits, signals, 3 * faulty.PS), signals

    return run


@pytest.fixture(scope="module")
def hard(faulty):
    return {
        "hot at once": faulty.kick(),
        "compressed": faulty.compress(0.1),
        "drawn": faulty.draw(2.5),
        "pushed": faulty.draw(-2.0),
        "foreign": faulty.foreign(0.02),
    }


@pytest.mark.chance(2, stages=1)
@pytest.mark.parametrize("name", ["hot at once", "compressed", "drawn", "pushed", "foreign"])
def test_hard_faults_are_seen_within_a_picosecond(bench, changed, hard, name, chance):
    """In 95 of 100, which leaves some more of 60."""
    first, _ = bench.together(changed(hard[name])[0])
    assert len(first) >= chance.counts(REPLICAS, 0.9)[0]  # the others have halted before
    assert (first <= 1.0).sum() >= chance.counts(len(first), 0.95)[0]


@pytest.mark.chance(1, stages=1)
def test_without_a_fault_hardly_anything_halts(bench, changed, chance):
    """At most 20 halts per ns in 60 replicas of 2 ps: 2.4 are the most that is to be expected."""
    first, _ = bench.together(changed(lambda cluster, t: None)[0])
    assert np.isfinite(first).sum() <= chance.events(REPLICAS * 2e-3 * RATE)[1]


@pytest.mark.chance(8, stages=1)
def test_a_sensor_that_is_broken_blinds_its_channels_and_no_others(faulty, changed, chance):
    """The control is the same heat with a sensor that works."""

    def seen(delays, channels, within=10.0):
        return np.mean(np.nanmin([delays[name] for name in channels], axis=0) <= within)

    healthy, _ = changed(faulty.kick(), 4)
    many, few = (chance.counts(REPLICAS, share)[k] / REPLICAS for share, k in ((0.95, 0), (0.1, 1)))
    assert seen(healthy, SIGMA_CHANNELS) >= many
    for kind in ("tenth", "frozen"):
        broken, _ = changed(faulty.report(kind, faulty.kick()), 4)
        assert seen(broken, SIGMA_CHANNELS) <= few  # false alarms, and evidence of an R that was high when it froze
        assert seen(broken, ["distance"]) >= many
        assert seen(broken, ["stands still"], within=0.2) == (kind == "frozen")
    assert seen(healthy, ["stands still"]) == 0


def test_the_audit_and_the_self_test_see_broken_sensors(script, faulty, changed, known):
    audit, rng = script("fault_audit"), np.random.default_rng(0)
    _, quiet = changed(lambda cluster, t: None)
    _, tenth = changed(faulty.report("tenth"))
    good, small = quiet.covered.ravel(), tenth.covered[:, -faulty.PS :].ravel()

    def labels(covered):
        return audit.counts(good, rng.choice(covered, (20, 30)), 0, rng)

    assert np.isinf(labels(good)).mean() >= 0.9
    assert labels(small).max() <= 5
    assert labels(audit.biased(known, 1.0)).max() <= 10
    assert np.isinf(labels(audit.biased(known, 0.0))).mean() >= 0.9
    assert {kind: audit.refused(known, kind, 5) for kind in ("healthy", "tenth", "frozen")} == {
        "healthy": 0,
        "tenth": 0,  # it answers, only not enough
        "frozen": 5,
    }


def test_many_at_once_are_halted_when_one_by_one_they_are(bench, faulty, quiet, changed):
    """The rules that a run has, reading by reading; evidence draws its ties in an order of its own."""
    limits, *_ = quiet
    delays, signals = changed(faulty.report("frozen", faulty.draw(2.5)))
    begin, symbol = 3 * faulty.PS, (bench.STAND_IN,)
    for change, channels in ((faulty.foreign(0.05), ("trip", "smoothed")), (None, ("distance", "stands still"))):
        if change is not None:
            delays, signals = changed(change)
        for replica in range(0, REPLICAS, 20):
            rules = dict(zip(("trip", "smoothed", "evidence", "distance"), limits.rules(), strict=True))
            rules["stands still"] = StuckUncertainty()
            found = dict.fromkeys(channels, np.inf)
            for k, (ratio, far) in enumerate(zip(signals.ratio[replica], signals.distance[replica], strict=True)):
                said = Reading(
                    k, symbol, np.array([ratio]), 0.0, np.ones(1, dtype=bool), latent_distance=np.array([far])
                )
                for name in channels:
                    decision = rules[name](said)
                    if decision.breached and decision.halts and k >= begin:
                        step = (k - begin) * faulty.PER + replica % faulty.PER + 1
                        found[name] = min(found[name], step * faulty.STEP / 1e3)
            for name in channels:
                if np.isnan(delays[name][replica]):
                    continue  # halted before
                assert found[name] == pytest.approx(delays[name][replica], abs=1e-9), name


def test_forces_and_faults_are_those_of_the_guard(script, faulty, known):
    cluster = faulty.Cluster(3, 1)
    x = cluster.x + np.random.default_rng(0).normal(0, 0.2, cluster.x.shape)
    np.testing.assert_allclose(faulty.forces(x), script("false_halts").forces(x), rtol=1e-9, atol=1e-12)
    change = faulty.draw(-10.0)
    rules = [Leap(), KineticJump(), TooClose({"Ar-Ar": known.closest}, warns=False)]
    atoms = Atoms("Ar13", cluster.x[0], masses=np.full(13, faulty.MASS))
    seen = []
    for step in range(60):
        for rule in rules:
            atoms.positions, velocities = cluster.x[0], cluster.v[0]
            atoms.set_momenta(faulty.MASS * velocities)
            rule(atoms, step)
        before, energy = cluster.x.copy(), faulty.kinetic(cluster)
        change(cluster, step * faulty.STEP)
        cluster.step()
        atoms.positions = cluster.x[0]
        atoms.set_momenta(faulty.MASS * cluster.v[0])
        expected = any(copy.deepcopy(rule)(atoms, step + 1).breached for rule in rules)
        assert faulty.faults(cluster, known, before, energy)[0] == expected
        seen.append(expected)
    assert 0 < sum(seen) < 60


@pytest.mark.chance(1)
def test_quantiles_keep_what_they_promise(bench, chance):
    """95 % limits of a 95th percentile of 200 exponential values, and values that never came."""
    rng, n = chance.rng(), chance.times(400)
    held = [
        low <= -np.log(0.05) <= high
        for _, low, high in (bench.quantile(rng.exponential(size=200), 0.95) for _ in range(n))
    ]
    assert sum(held) >= chance.counts(n, 0.94)[0]
    assert bench.quantile(np.array([1.0] * 9 + [np.inf]), 0.95)[0] == np.inf
    assert bench.quantile(np.full(200, 2.0), 0.5) == (2.0, 2.0, 2.0)
