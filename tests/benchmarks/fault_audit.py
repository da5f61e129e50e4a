"""What sees a fault that is one of the sensor or of the labels: the audit with a reference method, and the self-test.

For :mod:`fault_delays`.  An audited check gives the share of atoms whose bound holds; labels are 5 ps apart, further than such
clusters remember.  A label of a state that does not change is drawn from all checks of that state.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scripted_faults as faulty
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from scipy.stats import binomtest
from scripted_faults import MEMBERS, PS, Known

from blipcalc.errors import MonitorError
from blipcalc.monitor.readings import check_sensor
from blipcalc.stats.evidence import BettingSequence

#: ps between labels; labels after which nobody waits any longer; good ones before the fault
SPACING, MOST, BEFORE = 5, 60, 20


def labels_until(before: np.ndarray, after: np.ndarray, level: float = 0.95) -> float:
    """Labels after the fault until the interval for the coverage lies below the level; infinite where they do not suffice."""
    sequence = BettingSequence(level)
    for value in before:
        sequence.update(value)
    for k, value in enumerate(after):
        sequence.update(value)
        if not (sequence.interval[1] >= level):
            return k + 1.0
    return np.inf


def counts(good: np.ndarray, after: np.ndarray, n_before: int, rng: np.random.Generator) -> np.ndarray:
    """(replicas,) labels until it is seen; ``after`` (replicas, labels) shares of atoms."""
    return np.array([labels_until(rng.choice(good, n_before), row) for row in after])


def biased(known: Known, size: float) -> np.ndarray:
    """Coverage in the reference frames by labels that are off by a constant, in medians of the bound."""
    samples = np.stack([faulty.forces(known.frames, pair) for pair in MEMBERS])
    bound = known.quantile * faulty.spread(samples)[0]
    error = faulty.forces(known.frames, faulty.TRUTH) - samples[faulty.DRIVES]
    error[..., 0] += size * np.median(bound)
    return (np.linalg.norm(error, axis=2) <= bound).mean(axis=1)


def states(known: Known, watched: dict[str, np.ndarray], replicas: int) -> Iterator[tuple]:
    """(name, shares (replicas, labels)): of biased labels, of sensors, of drifting weights in their own run."""
    rng = np.random.default_rng(3)
    for size in (0.0, 0.1, 0.25, 0.5, 1.0):
        name = f"8 labels off by {size:g} of the median bound" if size else "no fault"
        yield name, rng.choice(biased(known, size), (replicas, MOST))
    for name, covered in watched.items():
        if name.startswith("7"):
            first = rng.integers(SPACING * PS, size=replicas)
            at = first[:, None] + SPACING * PS * np.arange(covered.shape[1] // (SPACING * PS) - 1)
            yield name, np.take_along_axis(covered, at, axis=1)
        else:
            yield name, rng.choice(covered[:, covered.shape[1] // 2 :].ravel(), (replicas, MOST))


def audit_table(known: Known, good: np.ndarray, watched: dict[str, np.ndarray], replicas: int, text) -> str:
    """Labels and ps until the audit sees each state.  ``good``: coverage of checks without a fault."""
    rng = np.random.default_rng(4)
    lines = [
        f"| fault | coverage then | labels until seen: median, P95 | ps | not seen in the labels there are | after {BEFORE} good "
        "labels: median, P95 | not seen |",
        "|---" * 7 + "|",
    ]
    for name, after in states(known, watched, replicas):
        cells = [name, f"{after[:, -1].mean():.3f}"]
        for n in (0, BEFORE):
            found = counts(good, after, n, rng)
            missed = int(np.isinf(found).sum())
            low, high = binomtest(missed, replicas).proportion_ci(0.95, "exact")
            cells.append(f"{text(found, 0.5)}, {text(found, 0.95)}")
            if n == 0:
                median = np.median(found) * SPACING
                cells.append(f"{median:.3g}" if np.isfinite(median) else "–")
            cells.append(f"{missed}/{replicas} of {after.shape[1]} labels ({low:.1%} to {high:.1%})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


class Sensor(Calculator):
    """``atom_std`` of the committee, reported by a sensor that may be broken."""

    implemented_properties = ["atom_std"]

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first = kind, None

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        std = faulty.spread(np.stack([faulty.forces(atoms.positions[None], pair) for pair in MEMBERS]))[0][0]
        self.first = std if self.first is None else self.first
        self.results = {"atom_std": {"healthy": std, "tenth": 0.1 * std, "frozen": self.first}[self.kind]}


def refused(known: Known, kind: str, n: int = 100) -> int:
    """Runs of so many that the self-test does not let begin."""
    found = 0
    for positions in known.frames[:: len(known.frames) // n][:n]:
        try:
            check_sensor(Sensor(kind), Atoms(f"Ar{len(positions)}", positions))
        except MonitorError:
            found += 1
    return found
