"""Fit equations of state E(V) to energies over volumes.

Most of them are cubic polynomials in some x(V), so that the fit is linear and unique:

    E(V) = Σ_j c_j x^j,   x = V^m or ln V;   at the minimum   B0 = V0 E″,   B0′ = -1 - V0 E‴ / E″

| name | x |
|---|---|
| ``birchmurnaghan`` (Birch 1947, third order), ``birch`` | V^(-2/3) |
| ``sj`` (Alchagirov, Perdew, Boettger, Albers, Fiolhais 2001) | V^(-1/3) |
| ``p3``, ``taylor`` | V |
| ``pouriertarantola`` (Poirier, Tarantola 1998) | ln V |

``murnaghan`` (1944), ``vinet`` (Vinet, Ferrante, Smith, Rose 1987) and ``anton-schmidt`` (Anton, Schmidt 1997) are fitted by
least squares, starting from a Birch-Murnaghan fit.  Names and formulas are those of :class:`ase.eos.EquationOfState`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ase.eos import anton_schmidt, murnaghan, vinet
from scipy.optimize import OptimizeWarning, curve_fit

from blipcalc.settings import choice

#: m of x = V^m; 0 stands for ln V
POWERS = {
    "birchmurnaghan": -2 / 3,
    "birch": -2 / 3,
    "sj": -1 / 3,
    "p3": 1.0,
    "taylor": 1.0,
    "pouriertarantola": 0.0,
}
#: functions of (V, E0, B0, B0′, V0)
NONLINEAR: dict[str, Callable[..., np.ndarray]] = {
    "murnaghan": murnaghan,
    "vinet": vinet,
    "anton-schmidt": anton_schmidt,
}
NAMES = (*POWERS, *NONLINEAR)


class Fit(NamedTuple):
    """Parameters of one fitted curve; NaN if it has no minimum.

    energy : E0, eV; bulk_modulus : B0, eV/Å³; slope : B0′; volume : V0, Å³; residual : root mean square, eV
    """

    energy: float
    bulk_modulus: float
    slope: float
    volume: float
    residual: float


#: farthest minimum from the middle of the points, in half ranges of the points
FAR = 20.0
NO_FIT = Fit(*[float("nan")] * 5)


def fit(name: str, volumes: np.ndarray, energies: np.ndarray) -> Fit:
    """Return the equation of state fitted to (S,) volumes in Å³ and energies in eV, S ≥ 5.

    raises : ConfigurationError for an unknown name
    """
    choice("eos", name, NAMES)
    if name in POWERS:
        return _polynomial(POWERS[name], volumes, energies)
    start = _polynomial(POWERS["birchmurnaghan"], volumes, energies)
    return start if np.isnan(start.volume) else _nonlinear(NONLINEAR[name], volumes, energies, start)


def _polynomial(power: float, volumes: np.ndarray, energies: np.ndarray) -> Fit:
    unit = volumes.mean()  # volumes near 1 make the fit well conditioned
    v, shift = volumes / unit, energies.mean()
    x = v**power if power else np.log(v)
    centre, width = x.mean(), np.ptp(x) / 2
    c = np.polynomial.polynomial.polyfit((x - centre) / width, energies - shift, 3)
    curve = np.polynomial.Polynomial(c)
    slope, bend = curve.deriv(), curve.deriv(2)
    minima = [
        r.real for r in slope.roots().astype(complex) if abs(r.imag) < 1e-12 and abs(r) < FAR and bend(r.real) > 0
    ]
    if not minima:
        return NO_FIT
    (at,) = minima  # a cubic has at most one minimum
    first, second = bend(at) / width**2, curve.deriv(3)(at) / width**3  # E_xx, E_xxx
    x0 = at * width + centre
    if power and x0 <= 0:
        return NO_FIT
    v0 = x0 ** (1 / power) if power else np.exp(x0)
    dx = power * v0 ** (power - 1) if power else 1 / v0
    ddx = power * (power - 1) * v0 ** (power - 2) if power else -1 / v0**2
    e2, e3 = first * dx**2, second * dx**3 + 3 * first * dx * ddx
    residual = np.sqrt(np.mean((curve((x - centre) / width) + shift - energies) ** 2))
    return Fit(float(curve(at) + shift), v0 * e2 / unit, -1 - v0 * e3 / e2, v0 * unit, float(residual))


def _nonlinear(function: Callable[..., np.ndarray], volumes: np.ndarray, energies: np.ndarray, start: Fit) -> Fit:
    """Return a least-squares fit, in units that make all parameters of order one."""
    unit, scale = start.volume, start.bulk_modulus * start.volume
    v, e = volumes / unit, (energies - start.energy) / scale
    try:
        found, _ = curve_fit(function, v, e, p0=(0.0, 1.0, start.slope, 1.0), ftol=1e-14, xtol=1e-14)
    except (RuntimeError, OptimizeWarning):
        return NO_FIT
    e0, b0, slope, v0 = (float(p) for p in found)
    residual = float(np.sqrt(np.mean((function(v, *found) - e) ** 2))) * scale
    return Fit(e0 * scale + start.energy, b0 * scale / unit, slope, v0 * unit, residual)
