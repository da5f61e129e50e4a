"""Sequential tests of a stream of values: p-values against a reference, bets, detectors, and a confidence sequence.

A bet is a function of a p-value with mean 1 for uniform p-values; products of bets are a martingale, and statements from it
hold at all times, not only at one chosen before.  All tests need *independent* values: thin a correlated series by its
statistical inefficiency first.  A detector may monitor many streams at once: its state has the shape of its input.

| rule | update | alarm |
|---|---|---|
| conformal martingale | M ← M · bet(p) | M ≥ A; probability ≤ 1 / A over all times (Ville) |
| Shiryaev-Roberts e-detector | M ← (M + 1) · bet(p) | M ≥ A; after A values or more on average |
| CUSUM | C ← max(0, C + z - k) | C > h |

Source: Vovk, Gammerman, Shafer 2005, chapter 7 (conformal martingales); Shin, Ramdas, Rinaldo 2023, arXiv:2203.03532
(e-detectors); Page 1954, doi:10.1093/biomet/41.1-2.100 (CUSUM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: limit that keeps products of bets finite
LARGEST_LOG = 700.0


def conformal_p(values: ArrayLike, reference: ArrayLike, rng: np.random.Generator) -> Array:
    """Return p-values (#{reference > x} + U (#{reference = x} + 1)) / (m + 1), with U uniform.

    They are small where x exceeds most of m references.  A value ranks uniformly among its equals, itself included.

    values : (n,); reference : (m,), sorted or not
    returns : (n,) in (0, 1], uniform where a value is exchangeable with the references, ties or not
    source : Vovk, Gammerman, Shafer 2005, section 2.4 (smoothed conformal predictors)
    """
    ordered = np.sort(np.asarray(reference, dtype=np.float64))
    x = np.asarray(values, dtype=np.float64)
    last = np.searchsorted(ordered, x, side="right")
    larger, equal = len(ordered) - last, last - np.searchsorted(ordered, x, side="left")
    # U in (0, 1]: a p-value is never zero
    return (larger + (1.0 - rng.random(x.shape)) * (equal + 1)) / (len(ordered) + 1)


def log_bet(p: ArrayLike) -> Array:
    """Return the logarithm of ∫₀¹ ε p^(ε-1) dε = (1 - p + p ln p) / (p ln² p), a bet on small p of unknown size.

    p : in (0, 1]
    source : Vovk, Gammerman, Shafer 2005, section 7.1 (the simple mixture)
    """
    values = np.asarray(p, dtype=np.float64)
    if not ((values > 0) & (values <= 1)).all():
        raise ValueError("expected p-values in (0, 1]")
    log = np.log(values)
    # near p = 1 both parts vanish: the bet is ½ - ln(p) / 6 + …
    close = log > -1e-4
    safe = np.where(close, -1.0, log)
    exact = np.log((-np.expm1(safe) + np.exp(safe) * safe) / safe**2) - safe
    return np.where(close, np.log(0.5 - log / 6.0), exact)


@dataclass
class ShiryaevRoberts:
    """Shiryaev-Roberts e-detector: M ← (M + 1) · bet.

    run_length : A, lower bound of the mean number of values before a false alarm
    """

    run_length: float
    log_evidence: float | Array = -math.inf

    def update(self, log_e: float | Array) -> bool | NDArray[np.bool_]:
        """Add the logarithm of a bet; return whether M ≥ A."""
        self.log_evidence = np.minimum(np.logaddexp(self.log_evidence, 0.0) + log_e, LARGEST_LOG)
        return ~(self.log_evidence < math.log(self.run_length))


@dataclass
class Martingale:
    """Conformal martingale: M ← M · bet; alarm where M ≥ A."""

    threshold: float
    log_evidence: float | Array = 0.0

    def update(self, log_e: float | Array) -> bool | NDArray[np.bool_]:
        """Add the logarithm of a bet; return whether M ≥ A."""
        self.log_evidence = np.minimum(self.log_evidence + log_e, LARGEST_LOG)
        return ~(self.log_evidence < math.log(self.threshold))


@dataclass
class Cusum:
    """CUSUM: C ← max(0, C + z - k), for values z in units of their standard deviation around their mean.

    slack : k, half of the shift to detect; threshold : h
    """

    slack: float = 0.5
    threshold: float = 8.0
    sum: float | Array = 0.0

    def update(self, z: float | Array) -> bool | NDArray[np.bool_]:
        """Add a value; return whether C > h."""
        self.sum = np.maximum(0.0, self.sum + z - self.slack)
        return ~(self.sum <= self.threshold)


class BettingSequence:
    """Confidence sequence for the mean of values in [0, 1]: an interval that is valid at all times at once.

    For each candidate mean m there are two bets against it, that the mean is higher and that it is lower.  Their capitals

        K⁺_t(m) = Π (1 + λ_i (x_i - m)),   λ_i at most 1 / 2m;      K⁻_t(m) = Π (1 - λ_i (x_i - m)),   λ_i at most 1 / 2(1 - m)

    are martingales where m is the mean, so that {m : K⁺_t(m) < 2 / α and K⁻_t(m) < 2 / α}, α = 1 - confidence, contains it at all
    times, with probability 1 - α.  The bets λ_i depend only on the values before x_i.  K⁺ falls with m and K⁻ rises, so all
    candidates below one that K⁺ excludes are excluded too.  The limits lie on a grid, rounded outwards, so that an interval
    narrower than the grid is never empty.

    source : Waudby-Smith, Ramdas 2024, doi:10.1093/jrsssb/qkad009, theorem 3 (hedged capital, predictable plug-in bets)
    """

    def __init__(self, confidence: float = 0.95, resolution: int = 1001) -> None:
        if not 0 < confidence < 1:
            raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
        self.confidence, self.count = confidence, 0
        self._grid = np.linspace(0.0, 1.0, resolution)
        with np.errstate(divide="ignore"):
            self._most = 0.5 / self._grid, 0.5 / (1.0 - self._grid)
        self._up, self._down = np.zeros(resolution), np.zeros(resolution)
        self._low, self._high = 0.0, 1.0
        self._sum, self._squares = 0.5, 0.25

    def update(self, x: float) -> None:
        """Add a value."""
        if not 0 <= x <= 1:
            raise ValueError(f"expected a value between 0 and 1, got {x}")
        largest, t, m = math.log(2 / (1 - self.confidence)), self.count + 1, self._grid
        variance = self._squares / t
        bet = math.sqrt(2 * largest / (variance * t * math.log(t + 1)))
        self._up += np.log1p(np.minimum(bet, self._most[0]) * (x - m))
        self._down += np.log1p(-np.minimum(bet, self._most[1]) * (x - m))
        self._low = max(self._low, m[self._up >= largest].max(initial=0.0))
        self._high = min(self._high, m[self._down >= largest].min(initial=1.0))
        self.count = t
        self._sum += x
        self._squares += (x - self._sum / (t + 1)) ** 2

    @property
    def log_capitals(self) -> tuple[Array, Array, Array]:
        """Return candidate means m, and the logarithms of K⁺(m) and K⁻(m)."""
        return self._grid.copy(), self._up.copy(), self._down.copy()

    @property
    def interval(self) -> tuple[float, float]:
        """Return the limits of the mean.  Each is valid alone; the lower one exceeds the upper one where the mean has changed."""
        return float(self._low), float(self._high)
