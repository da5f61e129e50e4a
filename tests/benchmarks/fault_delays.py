"""How long the guard takes to see eight scripted faults, which channel sees them first, and how many it misses.

    python tests/benchmarks/fault_delays.py                  # some minutes of one core
    python tests/benchmarks/fault_delays.py --replicas 50    # a look

Clusters of 13 argon atoms under a committee of four, see :mod:`scripted_faults`.  Limits come first, from a reference run without
faults, for a wanted rate of false alarms; then 200 replicas with a history of 10 ps are changed at one step.  Delays are from
the first step of the change to the first check (of faults: step) that halts; replicas that were halted in the last ps before it
are left out.  Medians and 95th percentiles have 95 % limits from order statistics (exact binomial), misses are halts that never
came while it was watched (Clopper-Pearson).  Rules of other codes see the same signals, with limits for the same rate.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy.stats import binom, binomtest

sys.path.insert(0, str(Path(__file__).parent))

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "reproduce"))

import scripted_faults as faulty
from false_halts import CALIBRATION, STAND_IN, alarms, evidence, halts
from fault_audit import audit_table, refused
from monitor_rules import UNIT, vasp
from scripted_faults import CHECK, PER, PS, STEP, Change, Cluster, Known, Signals

from blipcalc.files.safetensors_file import write_atomically
from blipcalc.monitor.limits import Limits, fit_limits
from blipcalc.monitor.run_criteria import EDetector
from blipcalc.monitor.stuck import StuckUncertainty
from blipcalc.stats.rates import level_for_rate, poisson_interval
from blipcalc.stats.series import block_maxima, moving_average

#: ps before a change that channels remember; ps before it in which no halt may be; of a block of the other rules
HISTORY, CLEAN, BLOCK = 10, 1, 4
CHANNELS = ("faults", "trip", "smoothed", "evidence", "distance", "stands still")
OTHERS = ("single threshold", "FLARE", "DP-GEN", "VASP", "R too low")
Alarms = dict[str, np.ndarray]
"""{channel or rule: halts (replicas, checks)}."""


@dataclass(frozen=True)
class Scripted:
    """A fault of the list: what it is, how large, what is done for how many ps, and whether it is to be seen within one."""

    name: str
    size: str
    change: Change
    ps: int
    hard: bool = False


def scripts() -> list[Scripted]:
    """All faults that MD has to show; those of the labels come with the audit."""
    found = [Scripted("1 momenta and bath 20 → 133 K", "at once", faulty.kick(), 5, True)]
    found += [
        Scripted(
            "1 bath 20 → 133 K", f"in {d:g} ps" if d else "at once", faulty.heat(d), max(5, round(1.3 * d)), d <= 1
        )
        for d in (0, 1, 3, 10, 30)
    ]
    found += [Scripted("2 compressed", f"{b:.0%}", faulty.compress(b), 5, b == 0.1) for b in (0.1, 0.05, 0.02, 0.01)]
    for speed in (4.0, 2.0, 0.5, -0.5, -2.0, -4.0):
        name = "3 bond drawn" if speed > 0 else "3 bond pushed"
        found.append(Scripted(name, f"{abs(speed):g} Å/ps", faulty.draw(speed), 5, abs(speed) >= 2))
    found += [
        Scripted("4 foreign neighbour", f"members differ by {d:.0%}", faulty.foreign(d), 5, d >= 0.02)
        for d in (0.05, 0.02, 0.01, 0.0)
    ]
    for kind, name in (("tenth", "5 sensor says σ / 10"), ("frozen", "6 sensor frozen")):
        found.append(Scripted(name, "nothing else", faulty.report(kind), 5))
        found.append(Scripted(name, "bath 133 K", faulty.report(kind, faulty.heat(0)), 10))
        found.append(Scripted(name, "10 % compressed", faulty.report(kind, faulty.compress(0.1)), 5))
    for share, name in ((False, "7 driving member drifts"), (True, "7 all members drift")):
        for speed, ps in ((1.0, 20), (0.3, 40), (-0.3, 40)):
            change = faulty.drift(speed, all_members=share)
            found.append(Scripted(name, f"σ {speed:+g} % / ps", change, ps))
    return found


def guard(limits: Limits, signals: Signals) -> Alarms:
    """Halts of the channels at the checks; faults, which are asked at every step, have none here.

    The checks that evidence is shown, one in so many, fall anywhere: each replica begins with one of its own.
    """
    found = {name: beyond for name, (beyond, _) in alarms(limits, signals.ratio, CHECK, signals.distance).items()}
    (detector,) = (channel for channel in limits.rules() if isinstance(channel, EDetector))
    found["evidence"] = np.zeros_like(signals.still)
    for k, values in enumerate(signals.ratio):
        begin = k // PER % detector.every
        found["evidence"][k, begin:] = evidence(detector, values[begin:], k)
    count, repeated = StuckUncertainty().checks, np.cumsum(signals.still, axis=1)
    before = np.pad(repeated, ((0, 0), (count, 0)))[:, :-count]
    return found | {"stands still": repeated - before == count}


def other_rules(reference: Signals, rate: float) -> Callable[[Signals], Alarms]:
    """Rules of other codes, with limits for a rate of false alarms from the same reference.

    The last is one that the guard does not have: the mean of ln R over 1 ps below what it was in the reference.
    """
    block = BLOCK * PS

    def level(values: np.ndarray, length: int) -> float:
        maxima = block_maxima(list(values), length)
        return level_for_rate(maxima, BLOCK / 1e3, rate).value

    single, component = level(reference.ratio, block), level(reference.component, block)
    frame = level(reference.ratio[:, :: PS // 2], 2 * BLOCK)
    low = level(np.array([-moving_average(np.log(row), PS) for row in reference.ratio]), block)
    lax = vasp(1.2, float(np.log(np.quantile(reference.ratio, 0.99))) / UNIT)

    def rules(signals: Signals) -> Alarms:
        in_frame = np.arange(signals.ratio.shape[1]) % (PS // 2) == 0
        return {
            "single threshold": ~(signals.ratio <= single),
            "FLARE": ~(signals.component <= component),
            "DP-GEN": ~(signals.ratio <= frame) & in_frame,
            "VASP": lax(np.log(signals.ratio) / UNIT),
            "R too low": np.pad(
                np.array([-moving_average(np.log(row), PS) > low for row in signals.ratio]), ((0, 0), (PS - 1, 0))
            ),
        }

    return rules


def joined(parts: list[Signals]) -> Signals:
    """One after the other; faults are those of the last."""
    names = [f.name for f in fields(Signals) if f.name != "fault"]
    return Signals(*(np.concatenate([getattr(p, name) for p in parts], axis=1) for name in names), parts[-1].fault)


def delays(beyond: np.ndarray, begin: int) -> np.ndarray:
    """(replicas,) ps from a change at check ``begin`` to the first halt; infinite where none came, NaN where one came before."""
    after = beyond[:, begin:]
    step = after.argmax(axis=1) * PER + np.arange(len(after)) % PER + 1
    found = np.where(after.any(axis=1), step * STEP / 1e3, np.inf)
    return np.where(beyond[:, begin - CLEAN * PS : begin].any(axis=1), np.nan, found)


def of_channels(limits: Limits, signals: Signals, begin: int) -> dict[str, np.ndarray]:
    """{channel: delays of the replicas}, in ps."""
    found = {name: delays(beyond, begin) for name, beyond in guard(limits, signals).items()}
    return {name: found.get(name, signals.fault * STEP / 1e3) for name in CHANNELS}


def quantile(values: np.ndarray, q: float, confidence: float = 0.95) -> tuple[float, float, float]:
    """A quantile of values that may be infinite, and its limits from order statistics.

    P(x_(l) ≤ ξ_q ≤ x_(u)) ≥ confidence with l, u the tails of Binomial(n, q)
    """
    ordered, n, tail = np.sort(values), len(values), (1 - confidence) / 2
    padded = np.concatenate([[0.0], ordered, [np.inf]])
    low, high = int(binom.ppf(tail, n, q)), int(binom.isf(tail, n, q)) + 1
    return float(ordered[min(n - 1, int(np.ceil(q * n)) - 1)]), float(padded[low]), float(padded[min(high, n + 1)])


def text(values: np.ndarray, q: float) -> str:
    """The same, in words."""
    return "{} ({} to {})".format(*(f"{v:.3g}" if np.isfinite(v) else "–" for v in quantile(values, q)))


def together(found: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, float]]:
    """Delays of the guard, of replicas that were not halted before, and how often each channel was the first."""
    table = np.array(list(found.values()))
    table = table[:, ~np.isnan(table).any(axis=0)]
    first = table.min(axis=0)
    seen = np.isfinite(first)
    winners = table.argmin(axis=0)[seen]
    shares = {name: float((winners == k).sum() / table.shape[1]) for k, name in enumerate(found)}
    return first, {name: share for name, share in shares.items() if share > 0}


def row(script: Scripted, found: dict[str, np.ndarray], rules: dict[str, np.ndarray]) -> tuple[str, str]:
    """Of the two tables: the guard, and channel by channel with the rules of others."""
    first, shares = together(found)
    missed = int(np.isinf(first).sum())
    interval = binomtest(missed, len(first)).proportion_ci(0.95, "exact")
    who = ", ".join(f"{n} {s:.0%}" for n, s in sorted(shares.items(), key=lambda item: -item[1])) or "nobody"
    target = ("yes" if quantile(first, 0.95)[0] <= 1 else "**no**") if script.hard else ""
    head = [script.name, script.size]
    cells = [text(first, 0.5), text(first, 0.95), target, f"{missed}/{len(first)} (≤ {interval.high:.1%})", who]
    medians = [np.median(v[~np.isnan(v)]) for v in (*found.values(), *rules.values())]
    return (
        "| " + " | ".join([*head, f"{script.ps}", *cells]) + " |",
        "| " + " | ".join([*head, *(f"{m:.3g}" if np.isfinite(m) else "–" for m in medians)]) + " |",
    )


def reference(
    known: Known, replicas: int, ps: int, rate: float
) -> tuple[Limits, Callable[[Signals], Alarms], Signals, Signals]:
    """Limits, the other rules, and the signals without faults: those they are made of, and as long a third for a test."""
    cluster = warm(replicas, 2)
    made, fresh = faulty.watch(cluster, known, ps * PS), faulty.watch(cluster, known, ps // 3 * PS)
    limits = limits_of(made, rate)
    return limits, other_rules(made, rate), made, fresh


def limits_of(made: Signals, rate: float) -> Limits:
    """Limits of all four channels for a rate per ns."""
    return fit_limits(
        {"ratio": list(made.ratio), "latent_distance": list(made.distance)},
        CHECK,
        CALIBRATION,
        {STAND_IN: 1.0},
        tolerance=1.0,
        rate_per_ns=rate,
        domain_hash="",
    )


def warm(replicas: int, seed: int) -> Cluster:
    """A cluster of each replica, after 20 ps."""
    cluster = Cluster(replicas, seed)
    for _ in range(20 * PS * PER):
        cluster.step()
    return cluster


def control(limits: Limits, others: Callable[[Signals], Alarms], fresh: Signals) -> list[str]:
    """False alarms of everything, on signals that limits were not made of."""
    total = fresh.ratio.size * CHECK / 1e6
    channels = guard(limits, fresh)
    rows = channels | {"guard together": np.any(list(channels.values()), axis=0)} | others(fresh)
    lines = [f"| {total:.3g} ns without a fault | false alarms per ns (95 %) | expected |", "|---|---|---|"]
    of_limits = {name: getattr(limits, name).rate for name in ("trip", "smoothed", "distance")}
    expected = of_limits | {
        "evidence": limits.rate_per_ns / len(limits.criteria),
        "guard together": limits.expected_rate,
    }
    for name, beyond in rows.items():
        n, at_risk = halts(beyond, CHECK)
        low, high = poisson_interval(n, at_risk)
        wanted = f"{expected[name]:.2g}" if name in expected else ""
        lines.append(f"| {name} | {n / at_risk:.2g} ({low:.2g} to {high:.2g}) | {wanted} |")
    return [*lines, f"| faults at any step | {np.isfinite(fresh.fault).sum()} runs halted | 0 |"]


def report(replicas: int, reference_ps: int, rate: float) -> str:
    """All tables."""
    known = faulty.learn()
    limits, others, made, fresh = reference(known, replicas, reference_ps, rate)
    start = warm(replicas, 5)
    history, begin = faulty.watch(start, known, HISTORY * PS), HISTORY * PS
    first, second, watched = [], [], {}
    for script in scripts():
        cluster = copy.deepcopy(start)
        signals = joined([history, faulty.watch(cluster, known, script.ps * PS, script.change)])
        rules = {name: delays(beyond, begin) for name, beyond in others(signals).items()}
        lines = row(script, of_channels(limits, signals, begin), rules)
        first.append(lines[0])
        second.append(lines[1])
        print(lines[0], flush=True)
        if script.name.startswith(("5", "6", "7")) or script.size.endswith("by 0%"):
            watched[f"{script.name}, {script.size}"] = signals.covered[:, begin:]
    heads = "| fault | size | watched, ps | median, ps (95 %) | P95, ps (95 %) | P95 ≤ 1 ps | missed (95 %) | first seen by |"
    names = "| fault | size | " + " | ".join([*CHANNELS, *OTHERS]) + " |"
    trip, smoothed, far = (limits[name].limit.value for name in ("trip", "smoothed", "distance"))
    parts = [
        f"{made.ratio.size * CHECK / 1e6:g} ns of reference for at most {rate:g} false alarms per ns, {limits.expected_rate:.2g} "
        f"expected; R and distance remember {limits.inefficiency_ps:.2g} ps; limits: trip {trip:.3g}, smoothed "
        f"{np.exp(smoothed):.3g}, distance {far:.3g}; {replicas} replicas of each fault",
        "\n".join(control(limits, others, fresh)),
        "\n".join([heads, "|---" * 8 + "|", *first]),
        "Median delays in ps, channel by channel, and of other rules:",
        "\n".join([names, "|---" * (2 + len(CHANNELS) + len(OTHERS)) + "|", *second]),
        "The audit, labels 5 ps apart:",
        audit_table(known, fresh.covered.ravel(), watched, replicas, text),
        "The self-test refuses to begin, of 100 runs: "
        + ", ".join(f"sensor {kind} {refused(known, kind)}" for kind in ("healthy", "tenth", "frozen")),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=200)
    parser.add_argument("--reference-ps", type=int, default=200, help="of each replica")
    parser.add_argument("--rate", type=float, default=1.0, help="false alarms per ns, at most")
    arguments = parser.parse_args()
    found = report(arguments.replicas, arguments.reference_ps, arguments.rate)
    Path("runs").mkdir(exist_ok=True)
    write_atomically(Path("runs") / f"fault-delays-{arguments.replicas}.md", found.encode())
    print(found)


if __name__ == "__main__":
    main()
