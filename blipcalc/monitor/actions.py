"""What to do when a rule is breached: flag, record the frame, halt, or call the user's function.

An action is any function of (verdict, atoms, dynamics).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.optimize.optimize import BaseDynamics
from ase.optimize.sciopt import Converged, SciPyOptimizer

from blipcalc.frozen import snapshot
from blipcalc.io import write
from blipcalc.monitor.triggers import Verdict

logger = logging.getLogger(__name__)

Action = Callable[[Verdict, Atoms, BaseDynamics], Any]


def flag(verdict: Verdict, atoms: Atoms, dynamics: BaseDynamics) -> None:
    """Log a warning; where it goes is up to the process."""
    logger.warning("step %d: %s", verdict.step, verdict.reason)


def halt(verdict: Verdict, atoms: Atoms, dynamics: BaseDynamics) -> None:
    """End the run after this step, cleanly: a later ``dynamics.run`` goes on from here.

    The return value of ``run`` says nothing about it (ASE gives True for MD); ask the monitor.
    """
    dynamics.max_steps = dynamics.nsteps
    if isinstance(dynamics, SciPyOptimizer):
        dynamics.attach(_Stop(dynamics))


@dataclass(frozen=True)
class _Stop:
    """SciPy's minimisers do not look at ``max_steps``; they end at this exception, which ASE's ``run`` takes for the end."""

    dynamics: SciPyOptimizer

    def __call__(self) -> None:
        """Raise, after all other observers of the step, and once."""
        observers = self.dynamics.observers
        observers[:] = [entry for entry in observers if entry[0] is not self]
        raise Converged


@dataclass(frozen=True)
class Record:
    """Append the frame to a file, with its uncertainties and, in ``info``, the verdict under ``breach_*``.

    path : as for :func:`blipcalc.io.write`
    calculator : where uncertainties come from, if not from ``atoms.calc``
    """

    path: Path
    calculator: Calculator | None = None

    def __call__(self, verdict: Verdict, atoms: Atoms, dynamics: BaseDynamics) -> None:
        """Write it."""
        frame = snapshot(atoms, self.calculator)
        frame.info.update(
            breach_step=verdict.step,
            breach_reason=verdict.reason,
            breach_value=verdict.value,
            breach_threshold=verdict.threshold,
            breach_unit=verdict.unit,
            breach_atom=verdict.atoms[0] if verdict.atoms else -1,
        )
        write(self.path, frame, append=True)
