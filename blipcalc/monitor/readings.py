"""Make a :class:`~blipcalc.monitor.decisions.Reading` from ASE objects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms, FixCartesian, FixScaled
from ase.filters import Filter
from ase.md.md import MolecularDynamics
from ase.optimize.optimize import BaseDynamics

from blipcalc.calculators.bayesian import bayesian_of
from blipcalc.errors import MonitorError, NonFiniteError, ZeroVarianceError
from blipcalc.monitor.decisions import Reading
from blipcalc.stats.spread import CANCELLED, is_blank


def watched_atoms(driven: Any) -> Atoms:
    """Return the ``Atoms`` of a dynamics, also behind cell and other filters; raises :class:`MonitorError` for other objects."""
    atoms = driven
    while isinstance(atoms, Filter):
        atoms = atoms.atoms
    if not isinstance(atoms, Atoms):
        raise MonitorError(
            f"expected a dynamics of Atoms or of a Filter around them, got one of {type(atoms).__name__}; for a path, "
            "watch its images one by one"
        )
    return atoms


def check_watchable(calc: Calculator | None) -> None:
    """Raise :class:`MonitorError` for a calculator without ``atom_std``."""
    if calc is None:
        raise MonitorError("the structure has no calculator; attach one before the monitor")
    if "atom_std" not in calc.implemented_properties:
        raise MonitorError(
            f"{type(calc).__name__} gives no 'atom_std': expected a BayesianCalculator with n_draws ≥ 2, or with heads for "
            "forces. Add dispersion with CombinedCalculator; behind another wrapper (bias) pass the inner one as calculator="
        )


def check_sensor(calc: Calculator, driven: Any, *, displacement: float = 0.02, seed: int = 0) -> None:
    """Check that ``atom_std`` changes when the movable atoms of a copy are displaced.

    Atoms without a force before and after, as in a one-atom cell, are no evidence of a fault.  A prediction that is not finite
    is left to the first check, which acts on it.

    displacement : standard deviation of each coordinate, Å
    raises : MonitorError where ``atom_std`` changes by less than a millionth; ZeroVarianceError
    """
    atoms, mask = watched_atoms(driven), movable(driven)
    if not mask.any():
        return
    moved = atoms.copy()
    moved.positions[mask] += np.random.default_rng(seed).normal(0.0, displacement, (np.count_nonzero(mask), 3))
    # the structure itself last, so that the calculator holds its results for the first step
    try:
        after, before = (np.array(calc.get_property("atom_std", a))[mask] for a in (moved, atoms))
    except NonFiniteError:
        return
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return  # not calibrated, or not finite: the first check reports which
    change = np.abs(after - before).max()
    if change > 1e-6 * np.abs(before).max():
        return
    if all(_feel_nothing(calc, a, mask) for a in (moved, atoms)):
        return
    raise MonitorError(
        f"the uncertainty does not answer: atoms moved by {displacement} Å change atom_std by {change:.3g} eV/Å (largest "
        f"{before.max():.3g}); is it constant, or of another structure?"
    )


def _feel_nothing(calc: Calculator, atoms: Atoms, mask: np.ndarray) -> bool:
    """Return whether the forces to which ``atom_std`` belongs vanish on all atoms of a mask."""
    calc.get_property("atom_std", atoms)  # so that the Bayesian calculator holds the forces of this structure
    forces = own_forces(calc, atoms)
    return forces is not None and bool(np.abs(forces[mask]).max() <= CANCELLED)


def own_forces(calc: Calculator, atoms: Atoms) -> np.ndarray | None:
    """Return the forces (n, 3) eV/Å to which ``atom_std`` belongs; None if the calculator gives none.

    They are those of the Bayesian calculator, without terms added to it and also if another driving potential is active.
    """
    part = bayesian_of(calc)
    known = None if part is None else part.get_property("forces", atoms, allow_calculation=False)
    if known is None and "forces" in calc.implemented_properties:
        known = calc.get_property("forces", atoms)
    return known


def movable(driven: Any) -> np.ndarray:
    """Return (n,) False for atoms that a constraint fixes wholly or a subset filter hides, else True."""
    atoms = watched_atoms(driven)
    mask = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        wholly = isinstance(constraint, FixAtoms) or (
            isinstance(constraint, FixCartesian | FixScaled) and np.all(constraint.mask)
        )
        if wholly:
            mask[constraint.index] = False
    if type(driven) is Filter:
        visible = np.zeros(len(atoms), dtype=bool)
        visible[driven.index] = True
        mask &= visible
    return mask


def take_reading(calc: Calculator, driven: Any, step: int, *, with_pressure: bool = False) -> tuple[Reading, float]:
    """Return a reading and the energy (eV); variances are computed if the calculator does not hold them.

    with_pressure : with pressure and its error bar

    A prediction that is not finite, or has no variance, does not raise: the reading holds the reason as ``failure``.
    """
    atoms, mask = watched_atoms(driven), movable(driven)
    n = len(atoms)
    atom_std, energy_std, energy, failure, distance = np.full(n, np.nan), math.nan, math.nan, "", None
    forces: np.ndarray | None = None
    pressure = pressure_std = math.nan
    try:
        if with_pressure:  # first: the same evaluation gives the other quantities
            pressure_std = float(calc.get_property("pressure_std", atoms)) / units.GPa
        atom_std = np.asarray(calc.get_property("atom_std", atoms), dtype=np.float64)
        if "energy_std" in calc.implemented_properties:
            energy_std = float(calc.get_property("energy_std", atoms))
        if "latent_distance" in calc.implemented_properties:
            distance = np.asarray(calc.get_property("latent_distance", atoms), dtype=np.float64)
    except (NonFiniteError, ZeroVarianceError) as error:
        failure = str(error)
    try:
        energy = float(atoms.get_potential_energy())
        if with_pressure:
            pressure = -float(atoms.get_stress(include_ideal_gas=True)[:3].mean()) / units.GPa
        driving = atoms.get_forces(apply_constraint=False)
        finite = {"positions": atoms.positions, "energy": energy, "forces": driving}
        bad = [name for name, value in finite.items() if not np.isfinite(value).all()]
        failure = failure or (f"{' and '.join(bad)} not finite" if bad else "")
        if not failure:
            own = own_forces(calc, atoms)
            forces = driving if own is None else own
    except (NonFiniteError, ZeroVarianceError) as error:
        failure = failure or str(error)
    if atom_std.shape != (n,):
        raise MonitorError(f"expected atom_std of shape ({n},), got {atom_std.shape}")
    if forces is not None and is_blank(atom_std[mask], forces[mask]):
        failure = (
            f"atom_std of all {np.count_nonzero(mask)} atoms that can move is exactly zero, although forces on them reach "
            f"{np.abs(forces[mask]).max():.3g} eV/Å: it watches nothing"
        )
    reading = Reading(
        step,
        tuple(atoms.get_chemical_symbols()),
        atom_std,
        energy_std,
        mask,
        failure,
        distance,
        pressure,
        pressure_std,
        atoms.positions.copy(),
        forces,
    )
    return reading, energy


def time_fs(dynamics: BaseDynamics) -> float:
    """Return the simulated time, fs; NaN for an optimiser."""
    return dynamics.nsteps * dynamics.dt / units.fs if isinstance(dynamics, MolecularDynamics) else math.nan
