"""A path between two minima with error bars: energies along it, its barriers, and what re-optimised draws say of them.

    ΔE_k = E_k(x̄_s) - E_k(x̄_A)          on shared images: exact at first order, for Ē is stationary at both
    ΔE_k = E_k(x_s,k) - E_k(x_A,k)      where each draw has its own saddle and minimum

| symbol | variable | meaning |
|---|---|---|
| x̄_A, x̄_s | ``images``, ``saddle_at`` | minimum and saddle of the driving surface |
| x_A,k, x_s,k | | those of draw k |

Both energies are of one draw: what a draw adds to all structures alike cancels.  The first is linear in the energies, so that
its bias is zero on a mean surface by construction; what it leaves out, -½ gᵀH⁻¹g at either point, is in
:attr:`Barrier.first_order_error` once the draws were re-optimised.
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
    """Barriers with every draw on its own path, or at its own stationary points; NaN for a draw whose ``status`` says why.

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
        """Plain lists and numbers, for JSON."""
        named = {name: getattr(self, name).to_dict() for name in ("forward", "backward", "reaction")}
        return named | {"status": list(self.status), "how": self.how}


@dataclass(frozen=True)
class Barrier:
    """A path of I images, K draws.

    images : from the initial to the final minimum, without calculators
    lengths : (I,) Å along the path
    energies : (I,) eV above the initial minimum; slopes : (I,) eV/Å along the path
    saddle_at : Å, where the driving surface is highest: the climbing image, or the maximum between images
    forward, backward, reaction : () eV, of all draws on these images
    atom_std : (I,) eV/Å, largest over atoms, widened as the calibration says
    status : ``converged`` or ``not converged``; a path that is not converged has a barrier that is not either
    residual : eV/Å, largest force on the path that is left; n_steps : of the optimiser
    reoptimized : the same with every draw on its own, where that was asked for
    notes : images that lie outside of the data of the model
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
        """Whether the path is."""
        return self.status == "converged"

    @property
    def first_order_error(self) -> np.ndarray:
        """(K,) eV, by how much the forward barrier of each draw, less that of the driving surface, differs once both are
        re-optimised.  What is left of the driving path itself is no part of it.

        raises : ConfigurationError where no draw was re-optimised
        """
        if self.reoptimized is None:
            raise ConfigurationError("no draw was re-optimised; pass reoptimize='points' or 'paths'")
        own, shared = self.reoptimized.forward, self.forward
        return (own.draws - own.value) - (shared.draws - shared.value)

    def profile(self, n_points: int = 100) -> tuple[np.ndarray, Estimate]:
        """(P,) Å along the path and the energies there: cubic between the images, with the slopes of each surface."""
        s = np.linspace(0.0, self.lengths[-1], whole("n_points", n_points, 2))
        value = spline(self.lengths, self.energies.value, self.slopes.value)(s)
        pairs = zip(self.energies.draws, self.slopes.draws, strict=True)
        draws = np.stack([spline(self.lengths, e, g)(s) for e, g in pairs])
        return s, Estimate(value, draws, "eV", self.energies.calibration_factor, self.energies.calibrated)

    def table(self) -> str:
        """A line for each image, and the barriers."""
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
        """Plain lists and numbers, for JSON; the images are files of their own (``blipcalc.write``)."""
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
    """Energies between images, which has their values and slopes."""
    return CubicHermiteSpline(lengths, energies, slopes)


def lengths_and_tangents(images: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """(I,) Å along the path and (I, n, 3) unit vectors along it; nearest images where the cell repeats."""
    steps = np.array([one.positions - other.positions for one, other in zip(images[1:], images[:-1], strict=True)])
    if images[0].pbc.any():
        steps = shortest(steps.reshape(-1, 3), images[0].cell, images[0].pbc).reshape(steps.shape)
    along = np.concatenate([steps[:1], steps[1:] + steps[:-1], steps[-1:]])
    size = np.linalg.norm(steps.reshape(len(steps), -1), axis=1)
    tangents = along / np.linalg.norm(along.reshape(len(along), -1), axis=1)[:, None, None]
    return np.concatenate([[0.0], np.cumsum(size)]), tangents


def top_of(lengths: np.ndarray, energies: np.ndarray, slopes: np.ndarray, *, climbing: bool) -> float:
    """Å, where a path is highest: at its highest image where that climbed, else between the images.

    raises : NoBarrierError where an end is highest
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
