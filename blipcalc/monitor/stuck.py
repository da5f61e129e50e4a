"""Detect a stuck uncertainty: σ of all atoms is the same, bit for bit, at consecutive checks while the atoms move.

Criteria compare σ with limits, and a σ stuck at a harmless value passes them forever.  Whether atoms move is decided by a
quantity that does not depend on σ:

| ``by`` | witness of the motion | when all σ may be the same although the witness changes |
|---|---|---|
| ``"distance"`` | the largest latent distance of the atoms | never: σ depends on the same features |
| ``"forces"`` | root mean square of the forces that σ belongs to | draws that differ by forces independent of the structure |
| ``"positions"`` | radius of gyration | atoms beyond each other's cutoff |

By default, the witness is ``"distance"`` for a model with a domain, else ``"forces"``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from blipcalc.errors import ConfigurationError
from blipcalc.monitor.decisions import Decision, Reading
from blipcalc.settings import whole
from blipcalc.stats.spread import CANCELLED

Witness = Literal["distance", "forces", "positions"]
#: relative change of the witness between checks that counts as a motion
MOVED: dict[str, float] = {"distance": 1e-3, "forces": 1e-3, "positions": 1e-6}


@dataclass
class StuckUncertainty:
    """Fault check that σ of the atoms that count changes while they move.

    checks : number of consecutive checks with an unchanged σ that is a breach
    by : witness of the motion; None: latent distances, or forces for a model without a domain
    """

    checks: int = 3
    by: Witness | None = None
    _count: int = field(default=0, init=False, repr=False)
    _last: tuple[str, float] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.checks = whole("checks", self.checks, 1)
        if self.by is not None and self.by not in get_args(Witness):
            raise ConfigurationError(f"by={self.by!r}; expected one of {', '.join(get_args(Witness))}")

    def __call__(self, reading: Reading) -> Decision:
        """Return the decision; a reading without a witness, or in which no atom counts, resets the count."""
        counted, by = reading.atom_std[reading.mask], self._by(reading)
        witness = _witness(reading, by) if counted.size and np.isfinite(counted).all() else math.nan
        if not math.isfinite(witness):
            self._count, self._last = 0, None
            return self._verdict(reading)
        before, now = self._last, (hashlib.sha256(np.ascontiguousarray(counted).tobytes()).hexdigest(), witness)
        moved = before is not None and abs(witness - before[1]) > MOVED[by] * abs(before[1])
        if before is None or now[0] != before[0]:
            self._count, self._last = 0, now
        elif moved:  # else the earlier witness is kept, so that a slow motion adds up
            self._count, self._last = self._count + 1, now
        return self._verdict(reading)

    def _verdict(self, reading: Reading) -> Decision:
        stuck = self._count >= self.checks
        reason = f"the uncertainty stands still: all {int(reading.mask.sum())} atoms moved at {self._count} checks in a row, and "
        reason = f"{reason}no atom_std changed" if stuck else "the uncertainty moves with the atoms"
        return Decision(stuck, (), float(self._count), self.checks - 1.0, "checks", reason, reading.step)

    def _by(self, reading: Reading) -> Witness:
        """Return the witness used for this reading."""
        if self.by is not None:
            return self.by
        return "forces" if reading.latent_distance is None else "distance"

    def state(self) -> dict[str, Any]:
        """Return the memory: count, hash of σ and witness."""
        return {"count": self._count, "last": None if self._last is None else list(self._last)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the memory from :meth:`state`."""
        self._count = state["count"]
        self._last = None if state["last"] is None else (state["last"][0], state["last"][1])


def _witness(reading: Reading, by: Witness) -> float:
    """Return a number that changes when atoms move; NaN without one, 0 for forces that cancel up to rounding."""
    if by == "distance":
        return reading.max_latent_distance
    values = reading.positions if by == "positions" else reading.forces
    if values is None:
        return math.nan
    vectors = values - values.mean(axis=0) if by == "positions" else values[reading.mask]
    found = float(np.sqrt(np.square(vectors).sum(axis=1).mean()))
    return 0.0 if by == "forces" and found <= CANCELLED else found
