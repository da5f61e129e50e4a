"""Hold a path between two minima with error bars: energies along it, barriers, and barriers of re-optimised draws.

    ΔE_k = E_k(x̄_s) - E_k(x̄_A)          on shared images: exact at first order, since Ē is stationary at both
    ΔE_k = E_k(x_s,k) - E_k(x_A,k)      with each draw at its per-draw saddle and minimum

| symbol | variable | meaning |
|---|---|---|
| x̄_A, x̄_s | ``images``, ``saddle_at`` | minimum and saddle of the driving potential |
| x_A,k, x_s,k | | those of draw k |

Both energies are of the same draw, so that errors common to all structures cancel.  The first form is linear in the energies, so
that its bias is zero if the driving potential is the mean of the draws; the neglected -½ gᵀH⁻¹g at either point is given by
:attr:`Barrier.first_order_error` after re-optimising the draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from scipy.interpolate import CubicHermiteSpline

from blipcalc.core.periodic import shortest
from blipcalc.errors import ConfigurationError, NoBarrierError
from blipcalc.settings import whole
from blipcalc.stats.estimate import Estimate, with_error


@dataclass(frozen=True)
class OwnBarriers:
    """Barriers with every draw on its own path, or at its own stationary points; NaN without a barrier, see ``status``.

    forward, backward, reaction : () eV
    status : of each draw, ``converged``, ``not converged`` or ``no barrier``
    how : ``points`` or ``paths``
    """

    forward: Estimate
    backward: Estimate
    reaction: Estimate
    status: tuple[str, ...]
    how: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        named = {name: getattr(self, name).to_dict() for name in ("forward", "backward", "reaction")}
        return named | {"status": list(self.status), "how": self.how}


@dataclass(frozen=True)
class Barrier:
    """Barrier along a path of I images, with K draws.

    images : from the initial to the final minimum, without calculators
    lengths : (I,) Å along the path
    energies : (I,) eV above the initial minimum; slopes : (I,) eV/Å along the path
    saddle_at : Å, position of the driving potential's maximum: the climbing image, or the maximum between images
    forward, backward, reaction : () eV, of all draws on these images
    atom_std : (I,) eV/Å, largest over atoms, times the calibration factor
    status : of the path and its barrier, ``converged`` or ``not converged``
    residual : eV/Å, largest remaining force on the path; n_steps : of the optimiser
    reoptimized : barriers with every draw re-optimised, if requested
    notes : images out of domain
    """

    images: tuple[Atoms, ...] = field(repr=False)
    lengths: np.ndarray
    energies: Estimate
    slopes: Estimate = field(repr=False)
    saddle_at: float
    forward: Estimate
    backward: Estimate
    reaction: Estimate
    atom_std: np.ndarray
    status: str
    residual: float
    n_steps: int
    reoptimized: OwnBarriers | None = None
    notes: tuple[str, ...] = ()

    @property
    def converged(self) -> bool:
        """Return whether the path is converged."""
        return self.status == "converged"

    @property
    def first_order_error(self) -> np.ndarray:
        """Return the change (K,) eV of each draw's forward barrier on re-optimisation, relative to that of the driving potential.

        The remaining error of the driving potential's path cancels.

        raises : ConfigurationError if no draw was re-optimised
        """
        if self.reoptimized is None:
            raise ConfigurationError("no draw was re-optimised; pass reoptimize='points' or 'paths'")
        own, shared = self.reoptimized.forward, self.forward
        return (own.draws - own.value) - (shared.draws - shared.value)

    def profile(self, n_points: int = 100) -> tuple[np.ndarray, Estimate]:
        """Return positions (P,) Å along the path and the energies there: cubic splines with the slopes at the images."""
        s = np.linspace(0.0, self.lengths[-1], whole("n_points", n_points, 2))
        value = spline(self.lengths, self.energies.value, self.slopes.value)(s)
        pairs = zip(self.energies.draws, self.slopes.draws, strict=True)
        draws = np.stack([spline(self.lengths, e, g)(s) for e, g in pairs])
        return s, Estimate(value, draws, "eV", self.energies.calibration_factor, self.energies.calibrated)

    def table(self) -> str:
        """Return text with a line for each image, and the barriers."""
        rows = [f"{'image':>5}  {'Å':>7}  {'eV':>18}  {'atom_std eV/Å':>13}"]
        columns = (self.lengths, self.energies.value, self.energies.std, self.atom_std)
        for i, (s, e, std, atom) in enumerate(zip(*columns, strict=True)):
            rows.append(f"{i:>5}  {s:7.3f}  {with_error(float(e), float(std)):>18}  {atom:13.4f}")
        rows.append(f"{self.status} after {self.n_steps} steps, {self.residual:.3g} eV/Å left")
        rows.append(f"shared images: forward {self.forward}, backward {self.backward}, reaction {self.reaction}")
        if (own := self.reoptimized) is not None:
            where = f"each draw on its own ({own.how})"
            rows.append(f"{where}: forward {own.forward}, backward {own.backward}, reaction {own.reaction}")
        error = np.full(1, np.nan) if self.reoptimized is None else self.first_order_error
        if np.isfinite(error).any():
            rows.append(
                f"shared images miss {np.nanmean(error):+.4f} eV of a draw on average, at most {np.nanmax(np.abs(error)):.4f}"
            )
        return "\n".join([*rows, *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON, without the images (write these with ``blipcalc.write``)."""
        estimates = ("energies", "slopes", "forward", "backward", "reaction")
        return {
            **{name: getattr(self, name).to_dict() for name in estimates},
            "lengths": self.lengths.tolist(),
            "saddle_at": self.saddle_at,
            "atom_std": self.atom_std.tolist(),
            "status": self.status,
            "residual": self.residual,
            "n_steps": self.n_steps,
            "reoptimized": None if self.reoptimized is None else self.reoptimized.to_dict(),
            "notes": list(self.notes),
        }


def spline(lengths: np.ndarray, energies: np.ndarray, slopes: np.ndarray) -> CubicHermiteSpline:
    """Return the cubic spline of energies between images with given slopes."""
    return CubicHermiteSpline(lengths, energies, slopes)


def lengths_and_tangents(images: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Return lengths (I,) Å along the path and unit tangents (I, n, 3), with nearest images in periodic cells."""
    steps = np.array([one.positions - other.positions for one, other in zip(images[1:], images[:-1], strict=True)])
    if images[0].pbc.any():
        steps = shortest(steps.reshape(-1, 3), images[0].cell, images[0].pbc).reshape(steps.shape)
    along = np.concatenate([steps[:1], steps[1:] + steps[:-1], steps[-1:]])
    size = np.linalg.norm(steps.reshape(len(steps), -1), axis=1)
    tangents = along / np.linalg.norm(along.reshape(len(along), -1), axis=1)[:, None, None]
    return np.concatenate([[0.0], np.cumsum(size)]), tangents


def top_of(lengths: np.ndarray, energies: np.ndarray, slopes: np.ndarray, *, climbing: bool) -> float:
    """Return the position of the maximum of a path, Å: its climbing image, or the maximum between images.

    raises : NoBarrierError if an end is highest
    """
    highest = int(energies.argmax())
    if highest in (0, len(energies) - 1):
        raise NoBarrierError(
            f"expected a maximum between the ends, but image {highest} of {len(energies)} is highest ({energies[highest]:.4f} eV "
            "above the initial one): there is no barrier in this direction, or the ends are no neighbouring minima"
        )
    if climbing:
        return float(lengths[highest])
    curve = spline(lengths, energies, slopes)
    roots = curve.derivative().roots(extrapolate=False)
    return float(max([*roots[np.isfinite(roots)], lengths[highest]], key=curve))
