"""Relax on the driving potential with a stopping rule: forces below fmax, or within their own uncertainty.

    |F_i| ≤ max(fmax, z σ_i) for every atom i, and likewise for the rows of a cell

| symbol | variable | meaning |
|---|---|---|
| F_i | ``forces`` | eV/Å, of an atom or of a row added by a cell filter |
| σ_i | ``noise`` | eV/Å, uncertainty of that force: ``atom_std`` of an atom, calibrated if the calculator is |
| z | ``z`` | a force below z σ is noise of the model, and steps that remove it gain nothing |

σ is evaluated at the start, and again when forces come near the bound set by the last σ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import ase.optimize
import numpy as np
from ase import Atoms
from ase.filters import Filter
from ase.optimize.optimize import Optimizer

from blipcalc.errors import ConfigurationError, NonFiniteError, NotConvergedError
from blipcalc.relaxation.cell import CellResponse

Status = Literal["converged", "noise floor", "steps", "halted"]
#: optimisers that do not proceed step by step to one bound on forces
UNFIT = ("Optimizer", "ODE12r", "CellAwareBFGS")
#: factor on the bound, below which σ is evaluated again
NEAR = 1.5


@dataclass(frozen=True)
class Descent:
    """Outcome of a relaxation: status, steps and remaining forces.

    status : ``converged`` to fmax; at the ``noise floor``, if some force is above fmax but below z σ; out of ``steps``; or
        ``halted`` by a monitor
    reason : the same in words
    steps : of the optimiser
    fmax : eV/Å, the largest remaining force
    floor : eV/Å, the largest bound z σ; NaN if σ was not evaluated
    """

    status: Status
    reason: str
    steps: int
    fmax: float
    floor: float

    @property
    def done(self) -> bool:
        """Return whether a minimum was reached, within the uncertainty of the forces."""
        return self.status in ("converged", "noise floor")


def optimizer_of(
    kind: str | type[Optimizer], target: Atoms | Filter, log: Mapping[str, Any], options: Mapping[str, Any] | None
) -> Optimizer:
    """Return one of ASE's optimisers on a structure or a filter; raises ConfigurationError for anything else.

    log : arguments for its output files; options : the user's arguments
    """
    if not (options is None or isinstance(options, Mapping)):
        raise ConfigurationError(f"options={options!r}; expected {{name: value}} of the optimiser")
    if isinstance(kind, str):
        found: object = getattr(ase.optimize, kind, None)
        if not _is_optimizer(found):
            known = sorted(name for name, value in vars(ase.optimize).items() if _is_optimizer(value))
            raise ConfigurationError(f"optimizer={kind!r}; ASE has {', '.join(known)}")
        kind = found
    if not _is_optimizer(kind):
        raise ConfigurationError(f"optimizer={kind!r}; expected the name of one of ASE's optimisers, or its class")
    try:
        return kind(target, **log, **(options or {}))  # type: ignore[arg-type]  # ASE's types leave filters out
    except TypeError as error:
        raise ConfigurationError(f"{kind.__name__} refuses its options: {error}") from None


def _is_optimizer(value: object) -> TypeGuard[type[Optimizer]]:
    return isinstance(value, type) and issubclass(value, Optimizer) and value.__name__ not in UNFIT


def descend(
    optimizer: Optimizer, atoms: Atoms, response: CellResponse | None, *, fmax: float, z: float, steps: int
) -> Descent:
    """Run an optimiser until forces are within their bound; return the outcome.

    Parameters
    ----------
    optimizer : with its observers, on the atoms or on a filter around them
    response : of that filter to a stress; None without one
    fmax, z : see above; z = 0 evaluates no σ
    steps : most steps

    Raises
    ------
    NonFiniteError : a force that is not finite, which ASE's optimisers do not notice
    NotConvergedError : an optimiser, or a constraint, that failed
    """
    noise = row_noise(atoms, response) if z else np.zeros(1)
    bound = np.maximum(fmax, z * noise)
    planned = optimizer.nsteps + steps
    for _ in _steps(optimizer, fmax, steps):
        if optimizer.max_steps < planned:
            break  # halted by an observer
        norms = np.linalg.norm(optimizer.atoms.get_forces(), axis=-1)
        if not np.isfinite(norms).all():
            raise NonFiniteError(f"forces of rows {np.flatnonzero(~np.isfinite(norms))[:10].tolist()} are not finite")
        if z and (norms <= NEAR * bound).all():
            noise = row_noise(atoms, response)
            bound = np.maximum(fmax, z * noise)
        if (norms <= bound).all():
            return _ended(norms, fmax, z, noise, optimizer.nsteps)
    norms = np.linalg.norm(optimizer.atoms.get_forces(), axis=-1)
    floor = float((z * noise).max()) if z else np.nan
    left = f"{norms.max():.3g} eV/Å are left, {np.resize(bound, len(norms))[np.argmax(norms / bound)]:.3g} were wanted"
    if optimizer.max_steps < planned:
        return Descent("halted", f"halted by an observer: {left}", optimizer.nsteps, float(norms.max()), floor)
    return Descent("steps", f"not there after {steps} steps: {left}", optimizer.nsteps, float(norms.max()), floor)


def _steps(optimizer: Optimizer, fmax: float, steps: int) -> Iterator[bool]:
    """Yield at each step of the optimiser; raises NotConvergedError if a line search or a constraint of ASE fails."""
    try:
        yield from optimizer.irun(fmax=fmax, steps=steps)
    except RuntimeError as error:
        if type(error) is not RuntimeError:
            raise
        raise NotConvergedError(
            f"{type(optimizer).__name__} was stopped after {optimizer.nsteps} steps by an error: {error}; expected constraints "
            "that can be met, and an optimiser that suits"
        ) from error


def _ended(norms: np.ndarray, fmax: float, z: float, noise: np.ndarray, steps: int) -> Descent:
    left, floor = float(norms.max()), float((z * noise).max()) if z else np.nan
    if (norms <= fmax).all():
        return Descent("converged", f"all forces are below {fmax:g} eV/Å", steps, left, floor)
    worst = np.flatnonzero(norms > fmax)
    reason = (
        f"forces up to {left:.3g} eV/Å are left, above fmax = {fmax:g} but below {z:g} σ (up to {floor:.3g} eV/Å) on "
        f"{len(worst)} of {len(norms)} rows: the model does not know them any better"
    )
    return Descent("noise floor", reason, steps, left, floor)


def row_noise(atoms: Atoms, response: CellResponse | None) -> np.ndarray:
    """Return the uncertainty of each row of the forces (rows,), eV/Å; 0 for elements without calibration.

    Rows of the cell follow from the spread of the stress, in the unit of the filter.
    """
    of_atoms = np.asarray(atoms.calc.get_property("atom_std", atoms))
    of_atoms = np.nan_to_num(of_atoms, nan=0.0)
    if response is None:
        return of_atoms
    stress = np.asarray(atoms.calc.get_property("stress_std", atoms))
    rows = np.sqrt(((response.matrix * stress) ** 2).sum(axis=1)).reshape(-1, 3)
    of_cell = np.linalg.norm(rows, axis=1) / np.sqrt(3)
    return np.concatenate([of_atoms, of_cell]) if response.atoms_move else of_cell
