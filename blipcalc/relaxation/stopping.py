"""A relaxation on the surface that drives, to where its forces are as good as known.

    |F_i| ≤ max(fmax, z σ_i) for every atom i, and alike for the rows of a cell

| symbol | variable | meaning |
|---|---|---|
| F_i | ``forces`` | eV/Å, of an atom or of a row that a cell filter adds |
| σ_i | ``noise`` | eV/Å: how well that force is known; ``atom_std`` of an atom, calibrated where the calculator is |
| z | ``z`` | below z σ a force is noise of the model, and steps that remove it are spent on nothing |

σ is asked for at the beginning, and again where forces come near the bound that the last one sets.
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
#: optimisers that do not go step by step to one bound on forces
UNFIT = ("Optimizer", "ODE12r", "CellAwareBFGS")
#: times the bound, from which on σ is asked for anew
NEAR = 1.5


@dataclass(frozen=True)
class Descent:
    """How a relaxation ended.

    status : ``converged`` to fmax; at the ``noise floor``, where z σ was the larger bound for some row; out of ``steps``; or
        ``halted`` by a monitor
    reason : the same in words
    steps : of the optimiser
    fmax : eV/Å, the largest force that is left
    floor : eV/Å, the largest bound z σ; NaN where σ was not asked for
    """

    status: Status
    reason: str
    steps: int
    fmax: float
    floor: float

    @property
    def done(self) -> bool:
        """Whether it came to a minimum, as far as that can be known."""
        return self.status in ("converged", "noise floor")


def optimizer_of(
    kind: str | type[Optimizer], target: Atoms | Filter, log: Mapping[str, Any], options: Mapping[str, Any] | None
) -> Optimizer:
    """One of ASE's optimisers on a structure or a filter; raises ConfigurationError for what is none.

    log : where it writes; options : others, which a user gave
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
    """Run an optimiser until forces are within their bound.

    Parameters
    ----------
    optimizer : with its observers, on the atoms or on a filter around them
    response : of that filter to a stress; None without one
    fmax, z : see above; z = 0 asks for no σ
    steps : at most

    Raises
    ------
    NonFiniteError : a force that is not finite; what ASE's optimisers go on with
    NotConvergedError : an optimiser, or a constraint, that gave up
    """
    noise = row_noise(atoms, response) if z else np.zeros(1)
    bound = np.maximum(fmax, z * noise)
    planned = optimizer.nsteps + steps
    for _ in _steps(optimizer, fmax, steps):
        if optimizer.max_steps < planned:
            break  # an observer has had enough
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
    """Of the optimiser; where a line search or a constraint of ASE gives up, that has a name."""
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
    """(rows,) eV/Å, how well each row of the forces is known; rows of the cell by the spread of the stress, in the filter's
    own unit.  0 for what is not known to be uncertain: an element without calibration does not make a bound.
    """
    of_atoms = np.asarray(atoms.calc.get_property("atom_std", atoms))
    of_atoms = np.nan_to_num(of_atoms, nan=0.0)
    if response is None:
        return of_atoms
    stress = np.asarray(atoms.calc.get_property("stress_std", atoms))
    rows = np.sqrt(((response.matrix * stress) ** 2).sum(axis=1)).reshape(-1, 3)
    of_cell = np.linalg.norm(rows, axis=1) / np.sqrt(3)
    return np.concatenate([of_atoms, of_cell]) if response.atoms_move else of_cell
