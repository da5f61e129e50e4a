"""Cut the replicas of a reference run into independent blocks.

    g = 1 + 2 Σ ρ(k) checks, not below 1 ps;      a block is 2 g or more

Limits are fitted to maxima over blocks: single checks of MD are correlated, so that their quantiles give no rate of alarms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blipcalc.errors import LimitsError
from blipcalc.monitor.run_criteria import SMALLEST
from blipcalc.stats.series import block_maxima, moving_average, statistical_inefficiency

#: ps: window of the smoothed criterion, and lower bound on g
WINDOW_PS = FLOOR_PS = 1.0
PS, NS = 1e3, 1e6  # fs


def checks(duration_fs: float, interval_fs: float) -> int:
    """Return the number of checks in a duration, at least one."""
    return max(1, round(duration_fs / interval_fs))


@dataclass(frozen=True)
class ReferenceBlocks:
    """Replicas of a reference run that are long enough, with their correlation time.

    series : {signal: values (checks,) of each replica}
    block : checks of an independent block; memory_ps : g, the longest of all signals
    """

    series: dict[str, list[np.ndarray]]
    interval_fs: float
    block: int
    memory_ps: float
    notes: tuple[str, ...]

    @classmethod
    def of(cls, series: Mapping[str, Sequence[np.ndarray]], interval_fs: float) -> ReferenceBlocks:
        """Return the blocks of checked series, with g estimated; duplicates are recognised by the first signal."""
        checked = {name: _checked(name, replicas) for name, replicas in series.items()}
        first = next(iter(checked.values()))
        for name, replicas in checked.items():
            if [len(v) for v in replicas] != [len(v) for v in first]:
                raise LimitsError(f"{name} and {next(iter(checked))} of the replicas differ in length")
        if len({values.tobytes() for values in first}) < len(first):
            raise LimitsError("two replicas are the same, value by value; give each a seed of its own")
        memory = max(statistical_inefficiency([_log(v) for v in replicas]) for replicas in checked.values())
        g = max(FLOOR_PS, memory * interval_fs / PS)
        wanted = checks(2 * g * PS, interval_fs) if math.isfinite(g) else 0
        long = [k for k, values in enumerate(first) if wanted and len(values) >= wanted]
        if not long:
            remembers = f"for {g:.2g} ps" if math.isfinite(g) else "for longer than that"
            raise LimitsError(
                f"the longest of {len(first)} replicas has {max(map(len, first)) * interval_fs / PS:.3g} ps, and R remembers "
                f"{remembers}: replicas take two memories, of 1 ps at least; give longer ones"
            )
        notes: tuple[str, ...] = ()
        if len(long) < len(first):
            short = wanted * interval_fs / PS
            notes = (f"{len(first) - len(long)} replicas shorter than {short:.2g} ps are left out",)
        # whole blocks fill equal replicas
        block = min(len(first[k]) // (len(first[k]) // wanted) for k in long)
        kept = {name: [replicas[k] for k in long] for name, replicas in checked.items()}
        return cls(kept, interval_fs, block, g, notes)

    @property
    def n_replicas(self) -> int:
        """Return the number of replicas that are long enough."""
        return len(next(iter(self.series.values())))

    @property
    def block_ns(self) -> float:
        """Return the length of a block, ns."""
        return self.block * self.interval_fs / NS

    def thinned(self, signal: str) -> np.ndarray:
        """Return a signal at independent checks."""
        return np.concatenate([v[:: checks(self.memory_ps * PS, self.interval_fs)] for v in self.series[signal]])

    def maxima(self, signal: str) -> tuple[np.ndarray, float]:
        """Return the maxima of a signal over blocks, and the length of a block in ns."""
        return block_maxima(self.series[signal], self.block), self.block_ns

    def maxima_of_mean(self, signal: str) -> tuple[np.ndarray, float]:
        """Return the maxima over blocks of ln signal averaged over a window, and the length of a block in ns."""
        window = checks(WINDOW_PS * PS, self.interval_fs)
        means = [moving_average(_log(values), window) for values in self.series[signal]]
        block = min(self.block, min(map(len, means)))  # a replica of one block has no mean for its first window
        return block_maxima(means, block), block * self.interval_fs / NS


def _checked(name: str, replicas: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the replicas of one signal; raises :class:`LimitsError` for anything but series of finite numbers ≥ 0."""
    found = [np.asarray(values, dtype=np.float64) for values in replicas]
    if not found or not all(v.ndim == 1 and v.size for v in found):
        raise LimitsError(
            f"expected one or more replicas of (checks,) values of {name}, got {[v.shape for v in found]}"
        )
    if not all(np.isfinite(v).all() and (v >= 0).all() for v in found):
        raise LimitsError(f"{name} of the reference run is not finite, or negative: are all its elements known?")
    return found


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, SMALLEST))
