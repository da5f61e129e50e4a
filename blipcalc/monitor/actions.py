"""Actions on a breach: flag, record the frame, roll back, switch to a reference, halt, or call the user's function.

An action is any function of (decision, atoms, dynamics); its return value is used only if it is a :class:`Done`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.md.md import MolecularDynamics
from ase.optimize.optimize import BaseDynamics
from ase.optimize.sciopt import Converged, SciPyOptimizer

from blipcalc.calculators.reference_on_demand import Active, ReferenceOnDemand
from blipcalc.calculators.snapshot import snapshot
from blipcalc.core.degrees_of_freedom import redraw
from blipcalc.errors import ConfigurationError
from blipcalc.io import keeps_sums, write
from blipcalc.monitor.decisions import Decision
from blipcalc.monitor.readings import watched_atoms
from blipcalc.settings import choice, path_of

logger = logging.getLogger(__name__)

#: arrays of a frame stored for a roll-back
SAFE = ("positions", "momenta", "cell")
#: names of the actions
NAMES = ("flag", "record", "rollback", "reference", "halt")

#: attributes of ASE's integrators that hold a second copy of positions, or of accelerations
OWN_POSITIONS, OWN_FORCES = "_q", "accel"

Action = Callable[[Decision, Atoms, BaseDynamics], Any]


@dataclass(frozen=True)
class Done:
    """Effect of an action on the run.

    event : name in the file of events; empty for none
    goes_on : whether the run continues; later actions, including a halt, are then skipped
    moved : whether the structure was replaced by that of the last passed check
    """

    event: str = ""
    goes_on: bool = True
    moved: bool = False


@runtime_checkable
class Remembering(Protocol):
    """Action with a memory, which is told of every passed check."""

    def prepare(self, dynamics: BaseDynamics) -> None:
        """Prepare for a dynamics; raises :class:`ConfigurationError` for one on which it cannot act."""
        ...

    def passed(self, atoms: Atoms, step: int) -> Done | None:
        """Take note of a passed check."""
        ...

    def state(self, atoms: Atoms) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the memory as plain values and arrays."""
        ...

    def restore(self, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], atoms: Atoms) -> None:
        """Restore the memory from :meth:`state`."""
        ...

    def __call__(self, decision: Decision, atoms: Atoms, dynamics: BaseDynamics) -> Done | None:
        """Act on a breach."""
        ...


def flag(decision: Decision, atoms: Atoms, dynamics: BaseDynamics) -> None:
    """Log a warning with step and reason."""
    logger.warning("step %d: %s", decision.step, decision.reason)


def halt(decision: Decision, atoms: Atoms, dynamics: BaseDynamics) -> None:
    """End the run after this step; a later ``dynamics.run`` continues from here.

    The return value of ``run`` does not show it (ASE returns True for MD); see the monitor's ``status``.
    """
    dynamics.max_steps = dynamics.nsteps
    if isinstance(dynamics, SciPyOptimizer):
        dynamics.attach(_Stop(dynamics))


@dataclass(frozen=True)
class _Stop:
    """Observer that ends SciPy's minimisers, which ignore ``max_steps``, by the exception that ends ASE's ``run``."""

    dynamics: SciPyOptimizer

    def __call__(self) -> None:
        """Raise ``Converged`` once, after all other observers of the step."""
        observers = self.dynamics.observers
        observers[:] = [entry for entry in observers if entry[0] is not self]
        raise Converged


@dataclass(frozen=True)
class Record:
    """Append the frame to a file, with its uncertainties and, in ``info``, the decision under ``breach_*``.

    path : as for :func:`blipcalc.io.write`
    calculator : source of the uncertainties, if not ``atoms.calc``
    ceiling : frames with a value beyond so many times the limit, or not finite, are not worth a label and not written
    """

    path: Path
    calculator: Calculator | None = None
    ceiling: float = math.inf

    def __call__(self, decision: Decision, atoms: Atoms, dynamics: BaseDynamics) -> None:
        """Write the frame with its decision."""
        if math.isfinite(self.ceiling) and not (decision.value <= self.ceiling * decision.threshold):
            return
        frame = snapshot(atoms, self.calculator)
        frame.info.update(
            breach_step=decision.step,
            breach_reason=decision.reason,
            breach_value=decision.value,
            breach_threshold=decision.threshold,
            breach_unit=decision.unit,
            breach_atom=decision.atoms[0] if decision.atoms else -1,
        )
        write(self.path, frame, append=True, checksums=keeps_sums(Path(self.path)))


@dataclass
class RollBack:
    """Reset the structure to that of the last passed check, with new directions of its momenta, and continue.

    Time and number of steps are not reset.  After ``times`` roll-backs to the same frame, or before any check has passed, the
    run is halted.

    times : most roll-backs to one frame
    seed : for the directions
    """

    times: int = 3
    seed: int = 0
    _safe: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = field(default=None, init=False, repr=False)
    _count: int = field(default=0, init=False, repr=False)

    def prepare(self, dynamics: BaseDynamics) -> None:
        """Raise :class:`ConfigurationError` for optimisers and for integrators that store positions or accelerations."""
        if not isinstance(dynamics, MolecularDynamics):
            raise ConfigurationError("rolling back is for MD; an optimiser has no momenta to redraw")
        if {OWN_POSITIONS, OWN_FORCES} & vars(dynamics).keys():
            raise ConfigurationError(
                f"{type(dynamics).__name__} keeps positions or accelerations of its own, to which a structure cannot be rolled "
                "back; take VelocityVerlet, Langevin or Bussi"
            )

    def passed(self, atoms: Atoms, step: int) -> None:
        """Store the structure of a passed check."""
        self._safe, self._count = (step, atoms.positions.copy(), atoms.get_momenta(), atoms.cell.array.copy()), 0

    def state(self, atoms: Atoms) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """Return count and stored structure, as plain values and arrays."""
        if self._safe is None:
            return {"count": self._count}, {}
        step, *arrays = self._safe
        return {"count": self._count, "step": step}, dict(zip(SAFE, arrays, strict=True))

    def restore(self, plain: Mapping[str, int], arrays: Mapping[str, np.ndarray], atoms: Atoms) -> None:
        """Restore the memory from :meth:`state`."""
        self._count = plain["count"]
        self._safe = None
        if arrays:
            positions, momenta, cell = (np.array(arrays[name]) for name in SAFE)
            self._safe = plain["step"], positions, momenta, cell

    def __call__(self, decision: Decision, atoms: Atoms, dynamics: BaseDynamics) -> Done | None:
        """Roll back if the decision halts."""
        if not decision.halts or self._safe is None:
            return None
        step, positions, momenta, cell = self._safe
        atoms.set_cell(cell)
        atoms.positions[:] = positions
        atoms.set_momenta(momenta)
        redraw(atoms, np.random.default_rng([self.seed, step, self._count]))
        if self._count >= self.times:
            return Done(goes_on=False, moved=True)
        self._count += 1
        return Done("rollback", moved=True)


@dataclass(frozen=True)
class AskReference:
    """Make the reference method the driving potential from a breach to the next passed check.

    The calculator is a :class:`~blipcalc.calculators.reference_on_demand.ReferenceOnDemand`.  A breach that halts switches to
    the reference; the first check without such a breach switches back, even if it warns.
    Each switch is an event, ``reference`` or ``model``.  The frame of a switch is written with results of the new driving
    potential, which also gives the forces of the next step.  Fault checks and values that are not finite still halt the run.

    record_to : file for the frames of breached checks with energy and forces of the reference, for training; ``info`` as in
        :class:`Record`
    """

    record_to: str | Path | None = None

    @property
    def path(self) -> Path | None:
        """Return the path of the file of frames; None without one."""
        return None if self.record_to is None else Path(self.record_to)

    def prepare(self, dynamics: BaseDynamics) -> None:
        """Start with the model; raises :class:`ConfigurationError` for optimisers and integrators with stored accelerations."""
        if not isinstance(dynamics, MolecularDynamics):
            raise ConfigurationError(
                "asking a reference is for MD; an optimiser cannot change its potential on the way"
            )
        if OWN_FORCES in vars(dynamics):
            raise ConfigurationError(
                f"{type(dynamics).__name__} keeps accelerations of its own, which would be those of the model for a step more; "
                "take VelocityVerlet, Langevin, Bussi or NoseHooverChainNVT"
            )
        _switch_of(watched_atoms(dynamics.atoms)).switch("model")

    def passed(self, atoms: Atoms, step: int) -> Done | None:
        """Switch back to the model."""
        if _switch_of(atoms).active == "model":
            return None
        atoms.calc.switch("model")
        return Done("model")

    def state(self, atoms: Atoms) -> tuple[dict[str, str], dict[str, np.ndarray]]:
        """Return which of the two is the driving potential."""
        return {"active": _switch_of(atoms).active}, {}

    def restore(self, plain: Mapping[str, str], arrays: Mapping[str, np.ndarray], atoms: Atoms) -> None:
        """Restore the driving potential from :meth:`state`."""
        _switch_of(atoms).switch(choice("active", plain["active"], get_args(Active)))

    def __call__(self, decision: Decision, atoms: Atoms, dynamics: BaseDynamics) -> Done | None:
        """Switch to the reference, and record its results."""
        calc = _switch_of(atoms)
        was = calc.active
        if decision.is_hard or not math.isfinite(decision.value) or not (decision.halts or was == "reference"):
            return None
        calc.switch("reference")
        if self.path is not None:
            for key in ("forces", "energy", "atom_std"):
                calc.get_property(key, atoms)
            Record(self.path)(decision, atoms, dynamics)
        return Done("" if was == "reference" else "reference")


def _switch_of(atoms: Atoms) -> ReferenceOnDemand:
    if not isinstance(atoms.calc, ReferenceOnDemand):
        raise ConfigurationError(
            f"asking a reference takes atoms with ReferenceOnDemand(model, reference), got {type(atoms.calc).__name__}; sums and "
            "other wrappers go inside it"
        )
    return atoms.calc


def actions_of(
    on_breach: Sequence[str | Action] | str | Action | None, record_to: str | Path | None, calculator: Calculator | None
) -> tuple[Action, ...]:
    """Return the functions of named actions; None: flag and halt, and record if there is a file for it."""
    if on_breach is None:
        on_breach = ("flag", "halt") if record_to is None else ("flag", "record", "halt")
    elif isinstance(on_breach, str) or callable(on_breach):
        on_breach = (on_breach,)
    elif not isinstance(on_breach, (list, tuple)):
        raise ConfigurationError(f"on_breach={on_breach!r}; expected a name, a function, or a list of them")
    unknown = [
        action for action in on_breach if not (callable(action) or (isinstance(action, str) and action in NAMES))
    ]
    if unknown:
        raise ConfigurationError(f"unknown action {unknown[0]!r}; known: {', '.join(NAMES)}, or a function")
    if ("record" in on_breach) != (record_to is not None):
        raise ConfigurationError("'record' in on_breach and record_to= belong together; give both or neither")
    named: dict[str, Action] = {"flag": flag, "halt": halt, "rollback": RollBack(), "reference": AskReference()}
    if record_to is not None:
        named["record"] = Record(path_of("record_to", record_to), calculator)
    actions = [named[action] if isinstance(action, str) else action for action in on_breach]
    if any(isinstance(action, Remembering) for action in actions) and halt not in actions:
        actions.append(halt)  # for breaches that the action cannot resolve
    return tuple(actions)
