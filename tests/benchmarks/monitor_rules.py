"""Rules that stop a run, on one synthetic signal: false halts per ns, and the delay after which a change is seen.

    python tests/benchmarks/monitor_rules.py                 # 200 ns, about three minutes
    python tests/benchmarks/monitor_rules.py --runs 40       # a look

Signal: logarithm of the uncertainty of the worst atom, of unit variance, one check every 10 fs,

    √0.7 · OU(τ = 0.1 ps) + √0.3 · OU(τ = 5 ps)

Every rule takes what it needs from 60 ns without labels.  Changes, in standard deviations of the signal: a step of 2, a step of
4, a ramp to 4 in 10 ps.  A rule is begun anew after each halt; halts within 1 ps of each other are one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy.signal import lfilter

from blipcalc.stats.evidence import Cusum, Martingale, ShiryaevRoberts, conformal_p, log_bet
from blipcalc.stats.rates import poisson_interval
from blipcalc.stats.series import block_maxima, moving_average, statistical_inefficiency

#: checks per ps and ns; ns of reference; references of conformal p-values
PS, NS, REFERENCE, REFERENCES = 100, 100_000, 60, 3000
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="ns of test")
    parser.add_argument("--changes", type=int, default=400, help="runs with a change, of each kind")
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
    print("| rule | false halts per ns, 95 % limits | delay, " + " | ".join(f"{name}, ps" for name in shifts) + " |")
    print("|---" * (2 + len(shifts)) + "|")
    for name, rule in rules(reference, rng):
        n, total = sum(halts(rule(x)) for x in quiet), 20 * len(quiet)
        low, high = poisson_interval(n, total)
        cells = [f"{delays(rule, shift, changing):.2f}" for shift in shifts.values()]
        print(f"| {name} | {n / total:.3g} ({low:.2g} to {high:.2g}) | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
