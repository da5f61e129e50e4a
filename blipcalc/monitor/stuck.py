"""A sensor that stands still: the uncertainties of all atoms are the same, bit by bit, check after check, while atoms move.

The channels compare σ with limits, and a σ that is frozen at a harmless value passes them for ever.  Whether atoms move is asked
of something that does not look at σ:

| ``by`` | witness of the motion | where all σ may be the same although the witness is not |
|---|---|---|
| ``"distance"`` | the largest latent distance of the atoms | nowhere: a σ of the structure sees what the features see |
| ``"forces"`` | root mean square of the forces that σ is of | draws that differ by forces which do not depend on the structure |
| ``"positions"`` | radius of gyration | atoms out of each other's reach |

Without ``by`` the first is asked where the model says where its data were, else the second: so it is in MD by default.
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
#: relative change of the witness from check to check that is a motion
MOVED: dict[str, float] = {"distance": 1e-3, "forces": 1e-3, "positions": 1e-6}


@dataclass
class StuckUncertainty:
    """σ of the atoms that count changes while they move.

    checks : in a row that repeat the one before, until it is a breach
    by : what tells that atoms moved; None: latent distances, or forces where there are none
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
        """The decision; a reading without a witness, or in which no atom counts, says nothing."""
        counted, by = reading.atom_std[reading.mask], self._by(reading)
        witness = _witness(reading, by) if counted.size and np.isfinite(counted).all() else math.nan
        if not math.isfinite(witness):
            self._count, self._last = 0, None
            return self._verdict(reading)
        before, now = self._last, (hashlib.sha256(np.ascontiguousarray(counted).tobytes()).hexdigest(), witness)
        moved = before is not None and abs(witness - before[1]) > MOVED[by] * abs(before[1])
        if before is None or now[0] != before[0]:
            self._count, self._last = 0, now
        elif moved:  # else the witness of then stays, so that a slow motion is one in the end
            self._count, self._last = self._count + 1, now
        return self._verdict(reading)

    def _verdict(self, reading: Reading) -> Decision:
        stuck = self._count >= self.checks
        reason = f"the uncertainty stands still: all {int(reading.mask.sum())} atoms moved at {self._count} checks in a row, and "
        reason = f"{reason}no atom_std changed" if stuck else "the uncertainty moves with the atoms"
        return Decision(stuck, (), float(self._count), self.checks - 1.0, "checks", reason, reading.step)

    def _by(self, reading: Reading) -> Witness:
        """What is asked of this reading."""
        if self.by is not None:
            return self.by
        return "forces" if reading.latent_distance is None else "distance"

    def state(self) -> dict[str, Any]:
        """The memory."""
        return {"count": self._count, "last": None if self._last is None else list(self._last)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""
        self._count = state["count"]
        self._last = None if state["last"] is None else (state["last"][0], state["last"][1])


def _witness(reading: Reading, by: Witness) -> float:
    """A number that changes where atoms move; NaN without one, 0 for forces that cancel but for rounding."""
    if by == "distance":
        return reading.max_latent_distance
    values = reading.positions if by == "positions" else reading.forces
    if values is None:
        return math.nan
    vectors = values - values.mean(axis=0) if by == "positions" else values[reading.mask]
    found = float(np.sqrt(np.square(vectors).sum(axis=1).mean()))
    return 0.0 if by == "forces" and found <= CANCELLED else found
