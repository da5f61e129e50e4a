"""Predicted against observed false alarms, where hundreds of nanoseconds can be afforded: clusters of argon and a committee.

    python examples/reproduce/false_halts.py                       # 2 × 160 ns, some minutes of one core
    python examples/reproduce/false_halts.py --replicas 32         # a look

Thirteen Lennard-Jones atoms at 20 K, many replicas at once, BAOAB at 5 fs; a committee of four that differ by 1 % in σ and 3 %
in ε is asked every 50 fs.  Limits for several rates come from the first half of the time, as ``blipcalc check`` makes them, and
are held against the second half, replica by replica, as a monitor holds them: after a halt a run begins anew, 10 ps later, and
these 10 ps are no time at risk.  The control: a quantile of single checks for the same number of checks per nanosecond.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import units

from blipcalc.core.prediction import Calibration
from blipcalc.errors import LimitsError
from blipcalc.files.safetensors_file import write_atomically
from blipcalc.monitor.decisions import Reading
from blipcalc.monitor.limits import Limits, fit_limits
from blipcalc.monitor.run_criteria import EDetector
from blipcalc.stats.rates import Level, events_at_risk, poisson_interval, same_rate
from blipcalc.stats.series import moving_average

SIGMA, EPSILON, MASS, KELVIN = 3.4, 0.0104, 39.95, 20.0
#: fs: of a step, between checks, between a halt and a run that begins anew
STEP, CHECK, ONE = 5.0, 50.0, 1e4
#: σ and ε of the committee, relative
MEMBERS = ((0.99, 1.03), (1.0, 0.97), (1.01, 1.0), (1.0, 1.03))
CALIBRATION = Calibration("centre", 4, 0, "", {18: 1.0}, 1.0, {}, {}, 0, {}, "")
#: R stands for all that a frame says, so one atom will do, with a quantile and a tolerance of 1
STAND_IN = "Ar"
#: eV/Å, the tolerance that R is measured in
TOLERANCE = 0.01


def forces(x: np.ndarray, sigma: float = SIGMA, epsilon: float = EPSILON) -> np.ndarray:
    """(replicas, n, 3) eV/Å of Lennard-Jones clusters, all pairs."""
    d = x[:, :, None] - x[:, None]
    r2 = np.einsum("rijk,rijk->rij", d, d)
    np.einsum("rii->ri", r2)[...] = np.inf
    s6 = (sigma**2 / r2) ** 3
    return np.einsum("rij,rijk->rik", 24 * epsilon * (2 * s6**2 - s6) / r2, d)


def largest_std(x: np.ndarray) -> np.ndarray:
    """(replicas,) the largest per-atom standard deviation of the committee, eV/Å."""
    samples = np.stack([forces(x, SIGMA * s, EPSILON * e) for s, e in MEMBERS])
    return np.sqrt(samples.var(axis=0, ddof=1).sum(axis=2) / 3).max(axis=1)


def icosahedron() -> np.ndarray:
    """(13, 3) Å, bonds of 2^(1/6) σ from the centre, a little shorter than that."""
    golden = (1 + 5**0.5) / 2
    shell = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    points = np.array([np.roll(p, k) for p in shell for k in range(3)])
    return np.vstack([np.zeros(3), points / np.linalg.norm(points[0]) * 2 ** (1 / 6) * SIGMA * 0.97])


def simulate(replicas: int, checks: int, seed: int) -> np.ndarray:
    """(replicas, checks) R of every check, after 20 ps that are not looked at."""
    rng, dt = np.random.default_rng(seed), STEP * units.fs
    kt, decay = KELVIN * units.kB, np.exp(-STEP / 500.0)
    x = np.repeat(icosahedron()[None], replicas, axis=0)
    v = rng.normal(size=x.shape) * np.sqrt(kt / MASS)
    f, found = forces(x), np.empty((checks, replicas))
    per, before = round(CHECK / STEP), round(2e4 / CHECK)
    for k in range(-before, checks):
        for _ in range(per):
            v += 0.5 * dt * f / MASS
            x += 0.5 * dt * v
            v = decay * v + np.sqrt((1 - decay**2) * kt / MASS) * rng.normal(size=v.shape)
            v -= v.mean(axis=1, keepdims=True)  # clusters stay where they are
            x += 0.5 * dt * v
            f = forces(x)
            v += 0.5 * dt * f / MASS
        if k >= 0:
            found[k] = largest_std(x) / TOLERANCE
    return found.T


def halts(beyond: np.ndarray, check_fs: float) -> tuple[int, float]:
    """Halts of replicas with breaches (replicas, checks), and the ns in which one could have come."""
    counts = [events_at_risk(row, round(ONE / check_fs)) for row in beyond]
    return sum(events for events, _ in counts), sum(at_risk for _, at_risk in counts) * check_fs / 1e6


def evidence(detector: EDetector, values: np.ndarray, seed: int) -> np.ndarray:
    """Alarms of the e-detector on a replica, which it is shown at independent checks alone."""
    rule = EDetector(detector.ratio, detector.reference, 1, detector.run_length, seed)
    found = np.zeros(len(values), dtype=bool)
    for k in range(detector.every - 1, len(values), detector.every):
        found[k] = rule(Reading(k, (STAND_IN,), values[k : k + 1], 0.0, np.ones(1, dtype=bool))).breached
    return found


def alarms(
    limits: Limits, fresh: np.ndarray, check_fs: float, distances: np.ndarray | None = None
) -> dict[str, tuple[np.ndarray, Level | None]]:
    """{channel: (breaches (replicas, checks), its level)}."""
    window = round(1e3 / check_fs)
    means = np.array([moving_average(np.log(row), window) for row in fresh])
    (detector,) = (channel for channel in limits.rules() if isinstance(channel, EDetector))
    found = {
        "trip": (fresh > limits["trip"].limit.value, limits["trip"].limit),
        "smoothed": (
            np.pad(means > limits["smoothed"].limit.value, ((0, 0), (window - 1, 0))),
            limits["smoothed"].limit,
        ),
        "evidence": (np.array([evidence(detector, row, k) for k, row in enumerate(fresh)]), None),
    }
    if distances is not None:
        found["distance"] = (~(distances <= limits["distance"].limit.value), limits["distance"].limit)
    return found


def account(values: np.ndarray, rates: Sequence[float], check_fs: float, distances: np.ndarray | None = None) -> str:
    """A table: limits from the first half of R, and of latent distances (replicas, checks), held against the second half."""
    half = values.shape[1] // 2
    reference, fresh = values[:, :half], values[:, half:]
    series, fresh_far = {"ratio": list(reference)}, None
    if distances is not None:
        series["latent_distance"], fresh_far = list(distances[:, :half]), distances[:, half:]
    total = fresh.size * check_fs / 1e6

    def observed(beyond: np.ndarray) -> tuple[tuple[int, float], str]:
        n, at_risk = halts(beyond, check_fs)
        low, high = poisson_interval(n, at_risk)
        return (n, at_risk), f"{n / at_risk:.3g} ({low:.2g} to {high:.2g})"

    lines = [
        f"{reference.size * check_fs / 1e6:g} ns of reference, {total:g} ns of test",
        "",
        "| wanted at most, per ns | channel | limit | expected per ns (95 %) | observed per ns (95 %) | p of equal rates |",
        "|---|---|---|---|---|---|",
    ]
    for rate in rates:
        try:
            limits = fit_limits(
                series, check_fs, CALIBRATION, {STAND_IN: 1.0}, tolerance=1.0, rate_per_ns=rate, domain_hash="",
            )  # fmt: skip
        except LimitsError as error:
            lines.append(f"| {rate:g} | refused: {error} |  |  |  |  |")
            continue
        together = np.zeros_like(fresh, dtype=bool)
        for name, (beyond, level) in alarms(limits, fresh, check_fs, fresh_far).items():
            together |= beyond
            found, text = observed(beyond)
            cells = [f"{rate:g}", name]
            if level is None:
                cells += ["", f"at most {limits.rate_per_ns / len(limits.criteria):.3g}", text, ""]
            else:
                value = np.exp(level.value) if name == "smoothed" else level.value
                p = same_rate(*found, level.n_beyond, level.exposure)
                expected = f"{level.rate:.3g} ({level.interval[0]:.2g} to {level.interval[1]:.2g})"
                cells += [f"{value:.4g}", expected, text, f"{p:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append(f"| {rate:g} | **together** |  | {limits.expected_rate:.3g} | {observed(together)[1]} |  |")
        naive = np.quantile(reference, 1 - rate * check_fs / 1e6)
        text = observed(fresh > naive)[1]
        lines.append(f"| {rate:g} | control, quantile of checks | {naive:.4g} | {rate:g} | {text} |  |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=400)
    parser.add_argument("--ns", type=float, default=0.4, help="of each replica, in each half")
    parser.add_argument("--rates", type=float, nargs="*", default=[0.1, 0.3, 1.0, 3.0], help="false alarms per ns")
    arguments = parser.parse_args()
    path = Path("runs") / f"false-halts-{arguments.replicas}-{arguments.ns:g}.npy"
    if not path.exists():
        values = simulate(arguments.replicas, 2 * round(arguments.ns * 1e6 / CHECK), 0)
        path.parent.mkdir(exist_ok=True)
        np.save(path, values)
    text = account(np.load(path), arguments.rates, CHECK)
    write_atomically(path.with_suffix(".md"), text.encode())
    print(text)


if __name__ == "__main__":
    main()
