"""Audit error bars with labels: at random checks a reference method gives forces, and the coverage is estimated.

    x_t = share of the atoms that move with ‖F_ref - F‖ ≤ q_el σ,      coverage = mean of x over the run

Checks are chosen at random, independent of the structure, so that their mean is an unbiased estimate for the run.  The interval
is a confidence sequence: it may be read at any time, and a run may be stopped by it, if audited checks are independent.  They
are ``spacing_ps`` or more apart, which must exceed the memory printed by ``blipcalc check``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.md import MolecularDynamics

from blipcalc.adapters.ase_results import ask
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.errors import CalibrationError, ConfigurationError, MonitorError
from blipcalc.monitor.actions import halt
from blipcalc.monitor.decisions import Decision
from blipcalc.monitor.events import EventLog
from blipcalc.monitor.readings import movable
from blipcalc.stats.evidence import BettingSequence


class LabelAudit:
    """Observer that estimates the coverage of error bars: ``dynamics.attach(audit, interval=100)``.

    Parameters
    ----------
    dynamics : MD of a structure with a calibrated calculator
    reference : calculator of the true forces (for a sum: of the whole sum); called at about ``share`` of the checks
    share : probability that a check is audited
    spacing_ps : least simulated time between two audited checks
    level : of the bounds, and their nominal coverage
    confidence : of the interval, at all times at once
    halts : end the run when the interval lies below the level
    events : file for the results, see :class:`~blipcalc.monitor.events.EventLog`
    seed : of the random choice, which is the same at a given step of every run

    Raises
    ------
    CalibrationError : no calibration, or a level that it does not hold; ConfigurationError : a share outside (0, 1]
    """

    def __init__(
        self,
        dynamics: MolecularDynamics,
        reference: Calculator,
        *,
        share: float = 0.01,
        spacing_ps: float = 5.0,
        level: float = 0.95,
        confidence: float = 0.95,
        halts: bool = False,
        events: str | None = None,
        seed: int = 0,
    ) -> None:
        calc = dynamics.atoms.calc
        if not _has_bounds(calc) or calc.bayesian.calibration is None:
            raise CalibrationError(
                f"an audit of error bars takes a calibrated BayesianCalculator, or a sum with one, got {type(calc).__name__}"
            )
        if not 0 < share <= 1:
            raise ConfigurationError(f"share={share}; expected a probability above 0, at most 1")
        calc.bayesian.calibration.atom_quantile(dynamics.atoms.numbers, level)
        self.dynamics, self.reference, self.share, self.level, self.seed = dynamics, reference, share, level, seed
        self.spacing_ps = spacing_ps
        self.halts, self.events = halts, None if events is None else EventLog(events)
        self.steps: list[int] = []
        self.values: list[float] = []
        self.decision: Decision | None = None
        self._sequence = BettingSequence(confidence)

    @property
    def coverage(self) -> tuple[float, float, float]:
        """Return the mean coverage of the audited checks, NaN without one, and its limits, valid at all times."""
        mean = float(np.mean(self.values)) if self.values else math.nan
        return (mean, *self._sequence.interval)

    def __call__(self) -> None:
        """Audit the current step if it is chosen at random and far enough from the last audited one."""
        step = self.dynamics.nsteps
        if np.random.default_rng([self.seed, step]).random() >= self.share:
            return
        least = max(1.0, self.spacing_ps * 1000.0 * units.fs / self.dynamics.dt)
        if self.steps and step - self.steps[-1] < least:
            return
        self._take(step, self._covered(self.dynamics.atoms))
        mean, low, high = self.coverage
        below = not (high >= self.level)
        reason = f"{len(self.values)} audited checks: bounds hold for {mean:.3f} of the atoms, {low:.3f} to {high:.3f}"
        self.decision = Decision(below, (), mean, self.level, "of the atoms", reason, step, halts=self.halts)
        if self.events is not None:
            self.events.write("audit", self.decision, self.dynamics.atoms, self.dynamics, low=low, high=high)
        if below and self.halts:
            halt(self.decision, self.dynamics.atoms, self.dynamics)

    def state(self) -> dict[str, Any]:
        """Return the memory, for a checkpoint."""
        return {"steps": list(self.steps), "values": list(self.values)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the memory from :meth:`state`."""
        self.steps, self.values = [], []
        self._sequence = BettingSequence(self._sequence.confidence)
        for step, value in zip(state["steps"], state["values"], strict=True):
            self._take(step, value)

    def _take(self, step: int, value: float) -> None:
        self._sequence.update(value)
        self.steps.append(step)
        self.values.append(value)

    def _covered(self, atoms: Atoms) -> float:
        """Return the share of the atoms that move whose bound holds; an unknown bound counts as one that does not."""
        calc, mask = atoms.calc, movable(atoms)
        if not mask.any():
            raise MonitorError("no atom can move: there is nothing to audit")
        bound = calc.bayesian.calibration.atom_quantile(atoms.numbers, self.level)
        bound = bound * calc.get_property("atom_std", atoms)
        true = ask(self.reference, "forces", atoms, name="the reference")
        error = np.linalg.norm(true - atoms.get_forces(apply_constraint=False), axis=1)
        return float((error <= bound)[mask].mean())


def _has_bounds(calc: Calculator | None) -> bool:
    """Return whether the error bars of a calculator belong to the forces that it gives."""
    return isinstance(calc, BayesianCalculator) or (isinstance(calc, CombinedCalculator) and _has_bounds(calc.model))
