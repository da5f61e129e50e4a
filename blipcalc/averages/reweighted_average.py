"""Average over the frames of a run, for the driving potential and each of K draws, with model and sampling errors.

The model error is the spread of the K averages; the sampling error is due to the finite run, and estimated from blocks.  The K
averages share the frames, so that their differences are known far better than each of them; the sampling error of the differences
increases the model error, and is returned as its ``noise``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from ase import units

from blipcalc.errors import SamplingError
from blipcalc.settings import choice
from blipcalc.stats.reweighting import Array, averages, effective_fraction, next_weights, weights
from blipcalc.stats.series import blocks, jackknife, statistical_inefficiency

Choice = Literal["auto", "reweight", "cea"]
#: least N_eff, in independent frames, for direct weights
LEAST_EFFECTIVE = 100
#: least independent frames for any average: five blocks
LEAST_INDEPENDENT = 20
#: statistical inefficiencies per block, which make the error too small by a sixteenth
MEMORIES = 4
#: most components of an array used to estimate the statistical inefficiency
MOST_COMPONENTS = 32
#: most blocks
MOST_BLOCKS = 50
REMEDY = "run longer, or run each draw on its own surface (blipcalc.averages.independent_runs, 'blipcalc md --independent-runs')"


@dataclass(frozen=True)
class Series:
    """Series of an observable along replicas of one run, T_r frames each.

    values : (T_r, …) of each replica, on the driving potential
    deviations : (T_r, K) eV, E_k - E
    own : (T_r, K, …) for an observable that differs between draws, such as the energy; else None
    """

    values: tuple[Array, ...]
    deviations: tuple[Array, ...]
    own: tuple[Array, ...] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.values))


@dataclass(frozen=True)
class Thermal:
    """Average with its errors.

    value : (…) on the driving potential; draws : (K, …)
    sampling_error : (…) standard error of the value
    noise : (…) spread of the draws due to sampling alone
    method : of the weights
    n_frames, inefficiency, n_independent : T, frames per independent frame g, and T / g
    n_eff : (K,) effective independent frames of direct weights, or independent frames of the run of each draw
    spread_h : (K,) standard deviation of h; None without weights
    next_term : (K, …) second-order term of the cumulant expansion, not included in ``draws``; None for direct weights
    """

    value: Array
    draws: Array
    sampling_error: Array
    noise: Array
    method: str
    n_frames: int
    inefficiency: float
    n_independent: float
    n_eff: Array
    spread_h: Array | None
    next_term: Array | None


def thermal_average(series: Series, temperature_K: float, method: Choice = "auto") -> Thermal:
    """Return the average over the frames of a run in equilibrium.

    Parameters
    ----------
    series : observable and energies of the draws
    temperature_K : of the run
    method : ``reweight``, ``cea``, or ``auto``: direct weights if every draw has N_eff ≥ 100, else the cumulant expansion

    Raises
    ------
    ConfigurationError : unknown method
    SamplingError : fewer than 20 independent frames; direct weights with N_eff below 100; an expansion whose second order is
        larger than its first, beyond the sampling error
    """
    choice("method", method, get_args(Choice))
    h = np.concatenate(series.deviations) / (units.kB * temperature_K)
    g, n_independent = independent_frames(series.values, _shifts(series, h))
    n_eff = n_independent * effective_fraction(h)
    if method == "auto":
        method = "reweight" if n_eff.min() >= LEAST_EFFECTIVE else "cea"
    if method == "reweight" and n_eff.min() < LEAST_EFFECTIVE:
        worst = int(n_eff.argmin())
        raise SamplingError(
            f"N_eff = {n_eff[worst]:.3g} for draw {worst}, of {n_independent:.0f} independent frames ({len(h)} frames, sd of h "
            f"{h[:, worst].std():.2g}); direct reweighting takes {LEAST_EFFECTIVE}. Take method='cea', {REMEDY}"
        )
    values = np.concatenate(series.values)
    own = values[:, None] if series.own is None else np.concatenate(series.own)
    parts = cut(series.values, g)

    def spread_out(rows: np.ndarray) -> Array:
        found = averages(own[rows], weights(h[rows], method))
        return found - found.mean(axis=0)

    draws = averages(own, weights(h, method))
    error = jackknife(lambda rows: values[rows].mean(axis=0), parts)
    next_term = averages(own, next_weights(h)) if method == "cea" else None
    if next_term is not None:
        _check_order(draws - own.mean(axis=0), next_term, error, h)
    return Thermal(
        value=values.mean(axis=0),
        draws=draws,
        sampling_error=error,
        noise=np.sqrt(np.square(jackknife(spread_out, parts)).sum(axis=0) / (h.shape[1] - 1)),
        method=method,
        n_frames=len(h),
        inefficiency=g,
        n_independent=n_independent,
        n_eff=n_eff,
        spread_h=h.std(axis=0),
        next_term=next_term,
    )


def _shifts(series: Series, h: Array) -> list[Array]:
    """Return first-order contributions (T_r, K, …) of frames to ⟨A⟩_k - ⟨A⟩: (A_tk - ⟨A_k⟩)(1 - δh_tk) - (A_t - ⟨A⟩).

    The correlation time of energies alone may be longer than that of the observable.  For an array, only the components with the
    largest variance are returned.
    """
    values = np.concatenate(series.values)
    own = values[:, None] if series.own is None else np.concatenate(series.own)
    flat, own = values.reshape(len(h), -1), own.reshape(len(h), own.shape[1], -1)
    loud = np.argsort(flat.var(axis=0))[-MOST_COMPONENTS:]
    flat, own = flat[:, loud], own[:, :, loud]
    factors = 1.0 - (h - h.mean(axis=0))[:, :, None]
    found = (own - own.mean(axis=0)) * factors - (flat - flat.mean(axis=0))[:, None]
    return np.split(found, np.cumsum([len(part) for part in series.values])[:-1])


def independent_frames(*series: Sequence[Array]) -> tuple[float, float]:
    """Return the statistical inefficiency g of the slowest of several series of one run, and T / g.

    series : each as (T_r, …) of every replica; constant ones are left out
    raises : SamplingError if T / g is below 20, or the correlation time exceeds the run
    """
    n, g = sum(map(len, series[0])), 1.0
    for replicas in series:
        flat = [np.reshape(values, (len(values), -1)) for values in replicas]
        if any(np.ptp(values, axis=0).any() for values in flat) or len({values[0].tobytes() for values in flat}) > 1:
            g = max(g, statistical_inefficiency(flat))
    if n < LEAST_INDEPENDENT * g:
        found = "a memory that outlasts them" if math.isinf(g) else f"{n / g:.1f} of them independent (one in {g:.3g})"
        raise SamplingError(f"{n} frames, {found}; an average with an error takes {LEAST_INDEPENDENT}. Run longer")
    return g, n / g


def cut(values: Sequence[Array], g: float) -> list[np.ndarray]:
    """Return independent blocks of frames."""
    lengths = [len(v) for v in values]
    return blocks(lengths, max(math.ceil(MEMORIES * g), sum(lengths) / MOST_BLOCKS))


def _check_order(first: Array, following: Array, error: Array, h: Array) -> None:
    """Raise SamplingError for an expansion whose second order is larger than its first, beyond the sampling error."""
    sizes = [float(np.sqrt(np.mean(np.square(term)))) for term in (first, following, error)]
    if sizes[1] > max(sizes[0], 2.0 * sizes[2]):
        raise SamplingError(
            f"the cumulant expansion does not settle: its first order is {sizes[0]:.3g}, its second {sizes[1]:.3g}, the sampling "
            f"error {sizes[2]:.3g} (sd of h up to {h.std(axis=0).max():.2g}); {REMEDY}"
        )
