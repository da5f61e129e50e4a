"""Clusters of argon under a committee, many at once, to which something is done at a known step.

Thirteen Lennard-Jones atoms at 20 K as in ``examples/reproduce/false_halts.py``, BAOAB at 5 fs.  The second of the committee of
four drives; the truth is a potential of its own.  A replica is looked at every 50 fs, the next one of ten 5 fs later, so that
what is done falls anywhere between two checks.

| symbol | field of :class:`Signals` | meaning |
|---|---|---|
| R | ``ratio`` | largest q σ of all atoms / tolerance, as the sensor reports it |
| | ``component`` | largest Cartesian standard deviation of all atoms, eV/Å |
| d | ``distance`` | largest distance of all atoms from the ellipsoid of the descriptor |
| x | ``covered`` | share of the atoms with ‖F_true - F‖ ≤ q σ |
| | ``fault`` | step of the first leap, jump of the kinetic energy, or pair too close; infinite without |
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from ase import units

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "reproduce"))

from false_halts import CHECK, EPSILON, KELVIN, MASS, MEMBERS, SIGMA, STEP, TOLERANCE, icosahedron

from blipcalc.monitor.fault_checks import HALF, KineticJump, Leap
from blipcalc.stats.ellipsoid import Ellipsoid, fit_ellipsoid

#: steps between two checks of a replica; checks of a ps
PER, PS = round(CHECK / STEP), round(1e3 / CHECK)
#: of the committee
DRIVES = 1
#: K: what 300 -> 2000 K is to something at 20 K
HOT = KELVIN * 2000 / 300
#: the shell atom that something is done to, and the centre
ATOM, CENTRE = 1, 0
#: Å, to which a pair is pushed together at most, so that forces stay numbers
NEAREST = 1.0
Pair = tuple[float | np.ndarray, float | np.ndarray]
#: σ and ε of the truth, relative: each pair has its own, so that errors are not those of another Lennard-Jones potential
TRUTH: Pair = (
    1 + 0.006 * np.random.default_rng(13).normal(size=78),
    1 + 0.02 * np.random.default_rng(14).normal(size=78),
)


@cache
def incidence(n: int) -> np.ndarray:
    """(pairs, n): the first of a pair 1, the second -1."""
    i, j = np.triu_indices(n, 1)
    return np.eye(n)[i] - np.eye(n)[j]


def forces(x: np.ndarray, pair: Pair = (1.0, 1.0)) -> np.ndarray:
    """(replicas, n, 3) eV/Å; σ and ε relative, of all pairs or each."""
    ends = incidence(x.shape[1])
    d = ends @ x
    r2 = np.einsum("rpk,rpk->rp", d, d)
    s6 = ((SIGMA * pair[0]) ** 2 / r2) ** 3
    return ends.T @ ((24 * EPSILON * pair[1] * (2 * s6**2 - s6) / r2)[..., None] * d)


def descriptor(x: np.ndarray) -> np.ndarray:
    """(replicas, n, n - 1) inverse distances of each atom to the others, the closest first; blind to kinds."""
    d = x[:, :, None] - x[:, None]
    r2 = np.einsum("rijk,rijk->rij", d, d)
    np.einsum("rii->ri", r2)[...] = np.inf
    return -np.sort(-SIGMA / np.sqrt(r2), axis=2)[:, :, :-1]


@dataclass(frozen=True)
class Known:
    """What calibration and training data say: q of one atom, where the data were, the closest pair, and the frames."""

    quantile: float
    ellipsoid: Ellipsoid
    closest: float
    frames: np.ndarray


@dataclass
class Signals:
    """What every check of every replica says; see the table above."""

    ratio: np.ndarray
    component: np.ndarray
    distance: np.ndarray
    covered: np.ndarray
    still: np.ndarray
    fault: np.ndarray


class Cluster:
    """Replicas of the cluster, the surface that drives them, the committee, and the sensor between it and the guard."""

    def __init__(self, replicas: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.x = np.repeat(icosahedron()[None], replicas, axis=0)
        self.v = self.rng.normal(size=self.x.shape) * np.sqrt(KELVIN * units.kB / MASS)
        self.kelvin, self.truth = KELVIN, TRUTH
        self.members: list[Pair] = list(MEMBERS)
        self.sensor: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda std, before: std
        self.f = forces(self.x, self.members[DRIVES])

    def step(self) -> None:
        """BAOAB, 5 fs; clusters stay where they are."""
        dt, kt, decay = STEP * units.fs, self.kelvin * units.kB, np.exp(-STEP / 500.0)
        self.v += 0.5 * dt * self.f / MASS
        self.x += 0.5 * dt * self.v
        self.v = decay * self.v + np.sqrt((1 - decay**2) * kt / MASS) * self.rng.normal(size=self.v.shape)
        self.v -= self.v.mean(axis=1, keepdims=True)
        self.x += 0.5 * dt * self.v
        self.f = forces(self.x, self.members[DRIVES])
        self.v += 0.5 * dt * self.f / MASS


def spread(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """σ (replicas, n) and the largest component (replicas,) of forces (members, replicas, n, 3), eV/Å."""
    variance = samples.var(axis=0, ddof=1)
    return np.sqrt(variance.sum(axis=2) / 3), np.sqrt(variance.max(axis=(1, 2)))


def learn(replicas: int = 100, frames: int = 20, seed: int = 1) -> Known:
    """Quantile, ellipsoid and closest pair of frames 2 ps apart, after 20 ps."""
    cluster, found = Cluster(replicas, seed), []
    for k in range(-10, frames):
        for _ in range(2 * PS * PER):
            cluster.step()
        if k >= 0:
            found.append(cluster.x.copy())
    x = np.concatenate(found)
    samples = np.stack([forces(x, pair) for pair in MEMBERS])
    error = np.linalg.norm(forces(x, TRUTH) - samples[DRIVES], axis=2)
    points = descriptor(x)
    closest = float(np.quantile(SIGMA / points[..., 0].max(axis=1), 0.001))
    quantile = float(np.quantile(error / spread(samples)[0], 0.95))
    return Known(quantile, fit_ellipsoid(points.reshape(-1, points.shape[-1])), closest, x)


Change = Callable[[Cluster, float], None]
"""What is done to replicas before a step, t fs after it began."""


def watch(cluster: Cluster, known: Known, checks: int, change: Change | None = None) -> Signals:
    """Signals of so many checks; ``change`` begins with the first step."""
    replicas, steps = len(cluster.x), checks * PER
    numbers = [np.empty((replicas, checks)) for _ in range(4)]
    still, fault = np.zeros((replicas, checks), dtype=bool), np.full(replicas, np.inf)
    last, last_component = np.full(cluster.x.shape[:2], np.nan), np.full(replicas, np.nan)
    for part in range(PER):  # so that a sensor that freezes at the first check has something to freeze at
        last[part::PER], last_component[part::PER], *_ = look(cluster, known, part)
    for step in range(steps):
        before, energy = cluster.x.copy(), kinetic(cluster)
        if change is not None:
            change(cluster, step * STEP)
        cluster.step()
        alarmed = faults(cluster, known, before, energy)
        fault[alarmed & (fault == np.inf)] = step + 1
        part, k = step % PER, step // PER
        std, component, far, error = look(cluster, known, part)
        reported = cluster.sensor(std, last[part::PER])
        last_component[part::PER] = cluster.sensor(component, last_component[part::PER])
        still[part::PER, k] = (reported == last[part::PER]).all(axis=1)
        last[part::PER] = reported
        bound = known.quantile * reported
        values = (bound.max(axis=1) / TOLERANCE, last_component[part::PER], far, (error <= bound).mean(axis=1))
        for row, value in zip(numbers, values, strict=True):
            row[part::PER, k] = value
    return Signals(*numbers, still, fault)


def look(cluster: Cluster, known: Known, part: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """σ, largest component, largest distance and ‖error‖ of every tenth replica."""
    x = cluster.x[part::PER]
    samples = np.stack([forces(x, pair) for pair in cluster.members])
    std, component = spread(samples)
    error = np.linalg.norm(forces(x, cluster.truth) - samples[DRIVES], axis=2)
    points = descriptor(x)
    far = known.ellipsoid.distance(points.reshape(-1, points.shape[-1])).reshape(points.shape[:2]).max(axis=1)
    return std, component, far, error


def kinetic(cluster: Cluster) -> np.ndarray:
    """(replicas,) eV."""
    return 0.5 * MASS * np.einsum("rik,rik->r", cluster.v, cluster.v)


def faults(cluster: Cluster, known: Known, before: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """(replicas,) whether Leap, KineticJump or TooClose halt at this step, with what they have by default."""
    moved = np.square(cluster.x - before).sum(axis=2).max(axis=1)
    freedom, jump = 3 * cluster.x.shape[1], KineticJump()
    kt = np.maximum(2 * energy / freedom, units.kB * jump.temperature_K)
    jumped = np.abs(kinetic(cluster) - energy) > jump.deviations * kt * np.sqrt(freedom / 2)
    d = incidence(cluster.x.shape[1]) @ cluster.x
    close = np.einsum("rpk,rpk->rp", d, d).min(axis=1) < (HALF * known.closest) ** 2
    return (moved > Leap().largest ** 2) | jumped | close


def heat(duration_ps: float) -> Change:
    """The bath goes from 20 to 133 K in so many ps."""

    def change(cluster: Cluster, t: float) -> None:
        share = min(1.0, (t + STEP) / (duration_ps * 1e3)) if duration_ps else 1.0
        cluster.kelvin = KELVIN + share * (HOT - KELVIN)

    return change


def kick() -> Change:
    """Momenta of 133 K at once, and a bath of it."""

    def change(cluster: Cluster, t: float) -> None:
        if t == 0:
            cluster.v *= np.sqrt(HOT / KELVIN)
            cluster.kelvin = HOT

    return change


def compress(by: float) -> Change:
    """All coordinates become shorter by a share, at once."""

    def change(cluster: Cluster, t: float) -> None:
        if t == 0:
            cluster.x = (1 - by) * cluster.x + by * cluster.x.mean(axis=1, keepdims=True)
            cluster.f = forces(cluster.x, cluster.members[DRIVES])

    return change


def draw(speed: float) -> Change:
    """A shell atom leaves the centre at so many Å/ps along the bond; pushed towards it where that is negative."""
    start: dict[str, np.ndarray] = {}

    def change(cluster: Cluster, t: float) -> None:
        if t == 0:
            bond = cluster.x[:, ATOM] - cluster.x[:, CENTRE]
            start["length"] = np.linalg.norm(bond, axis=1, keepdims=True)
            start["axis"] = bond / start["length"]
        length = np.maximum(start["length"] + speed * t / 1e3, NEAREST)
        cluster.x[:, ATOM] = cluster.x[:, CENTRE] + length * start["axis"]
        cluster.v[:, ATOM] = cluster.v[:, CENTRE] + speed / (1e3 * units.fs) * start["axis"]
        cluster.f = forces(cluster.x, cluster.members[DRIVES])

    return change


def foreign(disagreement: float) -> Change:
    """A shell atom is one of another kind from now on, whose σ is off by 4 %; the members differ by so much (one deviation)."""
    offsets = np.array([-1.0, 0.0, 1.0, 0.0]) * disagreement * np.sqrt(1.5)
    mixed = np.abs(incidence(13)[:, ATOM]) > 0

    def of_kind(pair: Pair, offset: float) -> Pair:
        return pair[0] * np.where(mixed, 1.05 + offset, 1.0), pair[1] * np.where(mixed, 1.3, 1.0)

    def change(cluster: Cluster, t: float) -> None:
        if t == 0:
            cluster.members = [of_kind(pair, float(o)) for pair, o in zip(cluster.members, offsets, strict=True)]
            cluster.truth = of_kind(cluster.truth, 0.04)
            cluster.f = forces(cluster.x, cluster.members[DRIVES])

    return change


def report(kind: str, meanwhile: Change | None = None) -> Change:
    """From now on the sensor says a ``tenth`` of σ, or is ``frozen``, whatever is done meanwhile."""

    def change(cluster: Cluster, t: float) -> None:
        cluster.sensor = (lambda std, before: 0.1 * std) if kind == "tenth" else (lambda std, before: before.copy())
        if meanwhile is not None:
            meanwhile(cluster, t)

    return change


def drift(percent_per_ps: float, *, all_members: bool) -> Change:
    """σ of the member that drives, or of all, falls or grows slowly."""

    def change(cluster: Cluster, t: float) -> None:
        factor = 1 + percent_per_ps / 100 * t / 1e3
        moving = range(len(MEMBERS)) if all_members else [DRIVES]
        for k in moving:
            cluster.members[k] = (MEMBERS[k][0] * factor, MEMBERS[k][1])

    return change
