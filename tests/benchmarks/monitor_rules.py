"""Rules that stop a run, on one synthetic signal: false alarms per ns, and the delay after which a change is seen.

    python tests/benchmarks/monitor_rules.py                 # 200 ns, some minutes
    python tests/benchmarks/monitor_rules.py --curves        # our guard against the rules of other codes, each at several rates
    python tests/benchmarks/monitor_rules.py --runs 40       # a look

Signal: logarithm of the uncertainty of the worst atom, of unit variance, one check every 10 fs,

    √0.7 · OU(τ = 0.1 ps) + √0.3 · OU(τ = 5 ps)

whose unit is 0.3 of ln σ where a rule needs σ itself.  Rules of other codes, as rules that stop a run:

* single threshold: σ of the worst atom beyond a level at any check
* FLARE: the largest Cartesian component of it beyond a level, so that turning the molecule moves it by up to √3; the axis of
  the uncertainty turns with a memory of 1 ps
* DP-GEN: σ beyond a level in a frame of the trajectory, one every 0.5 ps
* VASP: σ beyond (1 + CX) times the mean of the last ten σ that were beyond it

Every rule takes what it needs from 60 ns without labels.  Changes, in standard deviations of the signal: a step of 2, a step of
4, a ramp to 4 in 10 ps.  A rule is begun anew after each halt; halts within 1 ps of each other are one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy.signal import lfilter

from blipcalc.core.prediction import Calibration
from blipcalc.monitor.limits import fit_limits
from blipcalc.stats.evidence import Cusum, Martingale, ShiryaevRoberts, conformal_p, log_bet
from blipcalc.stats.rates import poisson_interval
from blipcalc.stats.series import block_maxima, moving_average, statistical_inefficiency

#: checks per ps and ns; ns of reference; references of conformal p-values
PS, NS, REFERENCE, REFERENCES = 100, 100_000, 60, 3000
#: of the signal, in ln σ
UNIT = 0.3
#: that limits belong to; here to nothing
CALIBRATION = Calibration("centre", 8, 0, "", {1: 1.0}, 1.0, {}, {}, 0, {}, "")
#: ps of stationary signal before a change
BEFORE = 50


def signal(n: int, runs: int, rng: np.random.Generator) -> np.ndarray:
    """(runs, n) checks."""
    total = 0.0
    for share, tau in ((0.7, 0.1), (0.3, 5.0)):
        phi = math.exp(-1 / (tau * PS))
        noise = rng.normal(size=(runs, n)) * math.sqrt(1 - phi**2)
        noise[:, 0] = rng.normal(size=runs)
        total = total + math.sqrt(share) * lfilter([1.0], [1.0, -phi], noise, axis=1)
    return total


Rule = Callable[[np.ndarray], np.ndarray]
"""Signals (runs, n) -> alarms (runs, n), True wherever the rule would stop; sequential rules are begun anew after each."""


def exceedance(level: float) -> Rule:
    return lambda x: x > level


def in_a_row(level: float, count: int) -> Rule:
    def rule(x: np.ndarray) -> np.ndarray:
        sums = np.cumsum(np.pad(x > level, ((0, 0), (count, 0))), axis=1)
        return sums[:, count:] - sums[:, :-count] == count

    return rule


def smoothed(level: float, window: int) -> Rule:
    def rule(x: np.ndarray) -> np.ndarray:
        means = np.array([moving_average(row, window) for row in x])
        return np.pad(means > level, ((0, 0), (window - 1, 0)))

    return rule


def sequential(make: Callable[[], object], bets: Callable[[np.ndarray], np.ndarray], every: int = 1) -> Rule:
    """A detector fed with every so many checks, all runs at once; its state begins anew where it alarmed."""

    def rule(x: np.ndarray) -> np.ndarray:
        fed = bets(x[:, every - 1 :: every])
        alarms = np.zeros(x.shape, dtype=bool)
        detector, start = make(), make()
        name = "sum" if isinstance(start, Cusum) else "log_evidence"
        for k in range(fed.shape[1]):
            hit = detector.update(fed[:, k])
            alarms[:, every - 1 + k * every] = hit
            setattr(detector, name, np.where(hit, getattr(start, name), getattr(detector, name)))
        return alarms

    return rule


def halts(alarms: np.ndarray) -> int:
    """Alarms that are not within 1 ps of the one before."""
    count = 0
    for row in alarms:
        last = -math.inf
        for t in np.flatnonzero(row):
            count += t - last > PS
            last = t
    return count


def delays(rule: Rule, shift: np.ndarray, signals: np.ndarray) -> float:
    """Median time in ps from the beginning of a change to the alarm; runs that stopped before are left out."""
    changed = signals.copy()
    at = BEFORE * PS
    changed[:, at:] += shift[: changed.shape[1] - at]
    alarms = rule(changed)
    clean = ~alarms[:, max(0, at - PS) : at].any(axis=1)
    after = alarms[clean, at:]
    first = np.where(after.any(axis=1), after.argmax(axis=1), after.shape[1])
    return float(np.median(first)) / PS


def rules(reference: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, Rule]]:
    """The table of rules, each with what it needs from the reference (ns, checks)."""
    flat, rows = reference.ravel(), list(reference)
    g = statistical_inefficiency(rows)
    print(f"statistical inefficiency: {g:.0f} checks = {g / PS:.2f} ps (exact 314 = 3.14 ps)")
    thin = math.ceil(g)
    pool = rng.choice(flat[::thin], REFERENCES, replace=False)
    dense = rng.choice(flat, REFERENCES, replace=False)

    def ns_maximum(values: np.ndarray) -> float:
        return float(np.quantile(values, 1 - 1 / len(values)))

    def bets(references: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: log_bet(conformal_p(x, references, rng))

    yield "one exceedance, 1e-3 per check", exceedance(np.quantile(flat, 1 - 1e-3))
    yield "one exceedance, 1e-5 per check", exceedance(np.quantile(flat, 1 - 1e-5))
    yield "one exceedance, maximum of the reference", exceedance(flat.max())
    yield "10 in a row above 99 %", in_a_row(np.quantile(flat, 0.99), 10)
    yield "block maximum 1 ps, 1e-4 per block", exceedance(np.quantile(block_maxima(rows, PS), 1 - 1e-4))
    for ps in (1, 5):
        means = [moving_average(row, ps * PS).max() for row in rows]
        yield f"{ps} ps moving average, ns-maxima", smoothed(ns_maximum(np.array(means)), ps * PS)
    for name, every, references in (("every check", 1, dense), ("thinned", thin, pool)):
        yield f"CUSUM k = 0.5, h = 8, {name}", sequential(Cusum, lambda x: x, every)
        yield f"conformal martingale A = 100, {name}", sequential(lambda: Martingale(100.0), bets(references), every)
        length = 10 * NS / every
        yield (
            f"e-detector, 10 ns, {name}",
            sequential(lambda length=length: ShiryaevRoberts(length), bets(references), every),
        )


def flare(level: float, rng: np.random.Generator) -> Rule:
    def rule(x: np.ndarray) -> np.ndarray:
        phi = math.exp(-1 / PS)
        axis = lfilter([1.0], [1.0, -phi], rng.normal(size=(*x.shape, 3)), axis=1)
        share = np.square(axis).max(axis=2) / np.square(axis).sum(axis=2)
        return x + 0.5 * np.log(3 * share) / UNIT > level

    return rule


def dp_gen(level: float) -> Rule:
    def rule(x: np.ndarray) -> np.ndarray:
        return (x > level) & (np.arange(x.shape[1]) % (PS // 2) == 0)

    return rule


def vasp(factor: float, start: float) -> Rule:
    def rule(x: np.ndarray) -> np.ndarray:
        sigma, alarms = np.exp(UNIT * x), np.zeros(x.shape, dtype=bool)
        for row, beyond in zip(sigma, alarms, strict=True):
            history, limit, t = [], math.exp(UNIT * start), 0
            while True:
                later = np.flatnonzero(row[t:] > limit)
                if not later.size:
                    break
                t += int(later[0])
                beyond[t] = True
                history = [*history, row[t]][-10:]
                limit = factor * float(np.mean(history))
                t += 1
        return alarms

    return rule


def guard(reference: np.ndarray, rate: float) -> tuple[str, Rule]:
    """The three channels with limits for a rate, fitted to the same reference as a user's are."""
    limits = fit_limits(
        {"ratio": [np.exp(UNIT * row) for row in reference]},
        1000.0 / PS,
        CALIBRATION,
        {"H": 1.0},
        tolerance=1.0,
        rate_per_ns=rate,
    )
    trip, level = math.log(limits["trip"].limit.value) / UNIT, limits["smoothed"].limit.value / UNIT
    _, _, evidence = limits.rules()
    values, rng = np.array(limits["evidence"].references), np.random.default_rng(0)
    detector = sequential(
        lambda: ShiryaevRoberts(evidence.run_length),
        lambda x: log_bet(conformal_p(np.exp(UNIT * x), values, rng)),
        evidence.every,
    )

    def rule(x: np.ndarray) -> np.ndarray:
        return exceedance(trip)(x) | smoothed(level, PS)(x) | detector(x)

    return f"our guard, at most {rate:g} per ns wanted ({limits.expected_rate:.2g} expected)", rule


def curves(reference: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, Rule]]:
    """Our guard, and the rules of other codes, from strict to lax."""
    flat = reference.ravel()
    for rate in (0.3, 1.0, 3.0):
        yield guard(reference, rate)
    for name, make in (("single threshold", exceedance), ("DP-GEN", dp_gen)):
        for share in (1e-3, 1e-4, 1e-5, 1e-6):
            yield f"{name}, exceeded by {share:g} of the reference", make(float(np.quantile(flat, 1 - share)))
    for extra in (2.5, 3.5, 4.5, 5.5):
        yield f"FLARE, {extra} sd", flare(extra, rng)
    for cx in (0.0, 0.1, 0.2):
        yield f"VASP, CX = {cx:g}", vasp(1 + cx, float(np.quantile(flat, 0.99)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="ns of test")
    parser.add_argument("--changes", type=int, default=400, help="runs with a change, of each kind")
    parser.add_argument("--curves", action="store_true", help="our guard and the rules of other codes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    reference = signal(NS, REFERENCE, rng)
    shifts = {
        "2 sd": np.full(150 * PS, 2.0),
        "4 sd": np.full(150 * PS, 4.0),
        "ramp": np.minimum(4.0, 4.0 * np.arange(1, 150 * PS + 1) / (10 * PS)),
    }
    changing = signal((BEFORE + 150) * PS, arguments.changes, rng)
    quiet = [signal(NS, 20, rng) for _ in range(arguments.runs // 20)]
    print("| rule | false alarms per ns, 95 % limits | delay, " + " | ".join(f"{name}, ps" for name in shifts) + " |")
    print("|---" * (2 + len(shifts)) + "|")
    for name, rule in (curves if arguments.curves else rules)(reference, rng):
        n, total = sum(halts(rule(x)) for x in quiet), 20 * len(quiet)
        low, high = poisson_interval(n, total)
        cells = [f"{delays(rule, shift, changing):.2f}" for shift in shifts.values()]
        print(f"| {name} | {n / total:.3g} ({low:.2g} to {high:.2g}) | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
