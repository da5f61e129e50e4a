"""The replicas of a reference run, cut into blocks that do not remember each other.

    g = 1 + 2 Σ ρ(k) checks, not below 1 ps;      a block is 2 g or more

Maxima over blocks are what limits are made of: single checks of MD are not independent, and quantiles of them mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blipcalc.errors import LimitsError
from blipcalc.monitor.run_criteria import SMALLEST
from blipcalc.stats.series import block_maxima, moving_average, statistical_inefficiency

#: ps: window of the smoothed channel, and the least that g is taken for
WINDOW_PS = FLOOR_PS = 1.0
PS, NS = 1e3, 1e6  # fs


def checks(duration_fs: float, interval_fs: float) -> int:
    """Checks that make a duration, at least one."""
    return max(1, round(duration_fs / interval_fs))


@dataclass(frozen=True)
class ReferenceBlocks:
    """The replicas of a reference run that are long enough, and how long they remember.

    series, distances : of R, and of the largest latent distance where it is watched
    block : checks of an independent block; memory_ps : g, of whatever remembers longest
    """

    series: list[np.ndarray]
    distances: list[np.ndarray]
    interval_fs: float
    block: int
    memory_ps: float
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, replicas: Sequence[np.ndarray], distances: Sequence[np.ndarray] | None, interval_fs: float
    ) -> ReferenceBlocks:
        """Checked, and the memory estimated."""
        series = [np.asarray(values, dtype=np.float64) for values in replicas]
        far = [np.asarray(values, dtype=np.float64) for values in distances or ()]
        if not series or not all(v.ndim == 1 and v.size for v in (*series, *far)):
            raise LimitsError(
                f"expected one or more replicas of (checks,) values of R, got {[v.shape for v in series]}"
            )
        if not all(np.isfinite(v).all() and (v >= 0).all() for v in (*series, *far)):
            raise LimitsError(
                "R or the latent distance of the reference run is not finite: are all its elements known?"
            )
        if far and [len(v) for v in far] != [len(v) for v in series]:
            raise LimitsError("R and latent distances of the replicas differ in length")
        if len({values.tobytes() for values in series}) < len(series):
            raise LimitsError("two replicas are the same, value by value; give each a seed of its own")
        kinds = [kind for kind in (series, far) if kind]
        memory = max(statistical_inefficiency([_log(v) for v in kind]) for kind in kinds)
        g = max(FLOOR_PS, memory * interval_fs / PS)
        wanted = checks(2 * g * PS, interval_fs) if math.isfinite(g) else 0
        long = [k for k, values in enumerate(series) if wanted and len(values) >= wanted]
        if not long:
            remembers = f"for {g:.2g} ps" if math.isfinite(g) else "for longer than that"
            raise LimitsError(
                f"the longest of {len(series)} replicas has {max(map(len, series)) * interval_fs / PS:.3g} ps, and R remembers "
                f"{remembers}: replicas take two memories, of 1 ps at least; give longer ones"
            )
        notes = ()
        if len(long) < len(series):
            short = wanted * interval_fs / PS
            notes = (f"{len(series) - len(long)} replicas shorter than {short:.2g} ps are left out",)
        # whole blocks fill equal replicas
        block = min(len(series[k]) // (len(series[k]) // wanted) for k in long)
        return cls([series[k] for k in long], [far[k] for k in long] if far else [], interval_fs, block, g, notes)

    @property
    def block_ns(self) -> float:
        """Length of a block."""
        return self.block * self.interval_fs / NS

    @property
    def thinned(self) -> np.ndarray:
        """R of checks that do not remember each other."""
        return np.concatenate([v[:: checks(self.memory_ps * PS, self.interval_fs)] for v in self.series])

    def maxima(self, channel: str) -> tuple[np.ndarray, float]:
        """Maxima over blocks of what a channel watches, and the length of a block in ns."""
        if channel == "distance":
            return block_maxima(self.distances, self.block), self.block_ns
        if channel != "smoothed":
            return block_maxima(self.series, self.block), self.block_ns
        window = checks(WINDOW_PS * PS, self.interval_fs)
        means = [moving_average(_log(values), window) for values in self.series]
        block = min(self.block, min(map(len, means)))  # a replica of one block has no mean for its first window
        return block_maxima(means, block), block * self.interval_fs / NS


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, SMALLEST))
