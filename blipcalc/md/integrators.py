"""ASE's integrators by name, with everything that a restart must know of them.

| name | ensemble | integrator | couples by |
|---|---|---|---|
| ``nve`` | NVE | VelocityVerlet | |
| ``langevin`` | NVT | Langevin, ``fixcm=False`` | ``friction_per_fs`` |
| ``baoab`` | NVT | LangevinBAOAB | ``friction_per_fs`` |
| ``bussi`` | NVT | Bussi | ``damping_fs`` |
| ``nose-hoover`` | NVT | NoseHooverChainNVT | ``damping_fs`` |
| ``npt`` | NPT, isotropic | IsotropicMTKNPT | ``damping_fs``, ``pressure_damping_fs`` |
| ``npt-cell`` | NPT, full cell | MTKNPT | ``damping_fs``, ``pressure_damping_fs`` |
| ``npt-baoab`` | NPT, isotropic | LangevinBAOAB | ``friction_per_fs``, ``pressure_damping_fs`` |

``fixcm=True``, ASE's default for Langevin, samples a temperature that is too high by N/(N - 1).  Bussi keeps the total momentum,
so that its degrees of freedom are only right with ``FixCom``; so does NVE, whose temperature is then that of 3N - 3 of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet
from pydantic import Field

from blipcalc.errors import ConfigurationError
from blipcalc.settings import Settings

Ensemble = Literal["nve", "langevin", "baoab", "bussi", "nose-hoover", "npt", "npt-cell", "npt-baoab"]
NPT = ("npt", "npt-cell", "npt-baoab")
#: thermostats whose temperature may follow a course
WITH_COURSE = ("langevin", "bussi")
#: attributes of an integrator that are not its state
NOT_STATE = {"atoms", "optimizable", "observers", "max_steps", "nsteps", "masses", "_masses", "dt", "rng"}


class IntegratorConfig(Settings):
    """Which integrator, and its constants."""

    ensemble: Ensemble = "langevin"
    timestep_fs: float = Field(0.5, gt=0)
    friction_per_fs: float = Field(0.01, gt=0, description="of langevin, baoab, npt-baoab")
    damping_fs: float = Field(100.0, gt=0, description="time of the thermostat of bussi, nose-hoover, npt, npt-cell")
    pressure_GPa: float = Field(0.0, description="of the NPT ensembles")
    pressure_damping_fs: float = Field(1000.0, gt=0, description="time of the barostat")


def integrator(
    atoms: Atoms, config: IntegratorConfig, temperature_K: float, rng: np.random.Generator
) -> MolecularDynamics:
    """The integrator of a structure; raises :class:`ConfigurationError` for NPT without a periodic cell, and for what ASE's
    own cannot do.
    """
    try:
        return _integrator(atoms, config, temperature_K, rng)
    except (ValueError, NotImplementedError, ArithmeticError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"ensemble={config.ensemble!r} cannot run this structure: {error}") from error


def _integrator(
    atoms: Atoms, config: IntegratorConfig, temperature_K: float, rng: np.random.Generator
) -> MolecularDynamics:
    c, dt = config, config.timestep_fs * units.fs
    if c.ensemble in NPT and not atoms.pbc.all():
        raise ConfigurationError(
            f"ensemble={c.ensemble!r} needs a cell periodic in three directions; pbc is {atoms.pbc.tolist()}"
        )
    tdamp, pdamp = c.damping_fs * units.fs, c.pressure_damping_fs * units.fs
    pressure, free = c.pressure_GPa * units.GPa, units.fs / c.friction_per_fs
    match c.ensemble:
        case "nve":
            return VelocityVerlet(atoms, dt)
        case "langevin":
            friction = c.friction_per_fs / units.fs
            return Langevin(atoms, dt, temperature_K=temperature_K, friction=friction, fixcm=False, rng=rng)
        case "baoab":
            return LangevinBAOAB(atoms, dt, temperature_K=temperature_K, T_tau=free, rng=rng)
        case "bussi":
            if not atoms.get_kinetic_energy() > 0:
                raise ConfigurationError(
                    "ensemble='bussi' rescales momenta, and these are zero: a single atom whose centre of mass rests, or atoms "
                    "that are all fixed; take langevin, or set momenta"
                )
            return Bussi(atoms, dt, temperature_K=temperature_K, taut=tdamp, rng=rng)
        case "nose-hoover":
            return NoseHooverChainNVT(atoms, dt, temperature_K=temperature_K, tdamp=tdamp)
        case "npt-baoab":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Using heuristic P_mass", UserWarning)  # which is what is wanted
                return LangevinBAOAB(
                    atoms,
                    dt,
                    temperature_K=temperature_K,
                    externalstress=-pressure,
                    hydrostatic=True,
                    T_tau=free,
                    P_tau=pdamp,
                    rng=rng,
                )
    kind = IsotropicMTKNPT if c.ensemble == "npt" else MTKNPT
    return kind(atoms, dt, temperature_K=temperature_K, pressure_au=pressure, tdamp=tdamp, pdamp=pdamp)


def set_temperature(dynamics: MolecularDynamics, temperature_K: float) -> None:
    """Give a thermostat of :data:`WITH_COURSE` another temperature."""
    if isinstance(dynamics, Bussi):
        dynamics.temp = temperature_K * units.kB
        dynamics.target_kinetic_energy = 0.5 * dynamics.temp * dynamics.ndof
    else:
        dynamics.set_temperature(temperature_K=temperature_K)


def variables(dynamics: MolecularDynamics) -> dict[str, np.ndarray]:
    """{name: value} of all numbers that an integrator and its thermostats hold, those of the future among them, float64.

    ASE keeps the variables of its chains and barostats in private attributes, so all of them are taken, whatever their names.
    """
    return {name: np.asarray(holder[key], dtype=np.float64) for name, holder, key in _numbers(dynamics, "")}


def restore_variables(dynamics: MolecularDynamics, values: dict[str, np.ndarray]) -> None:
    """Put :func:`variables` back; raises :class:`ConfigurationError` where the integrator holds others."""
    missing = sorted({name for name, _, _ in _numbers(dynamics, "")} - values.keys())
    if missing:
        raise ConfigurationError(f"the checkpoint is of another integrator: it lacks {', '.join(missing)}")
    for name, value in values.items():
        *parents, key = name.split(".")
        holder = vars(dynamics)
        for parent in parents:
            holder = vars(holder[parent])
        # what an integrator makes only while it runs is not there yet
        number = not np.ndim(value) and not isinstance(holder.get(key), np.ndarray)
        holder[key] = type(holder.get(key, 0.0))(value) if number else np.array(value)


def _numbers(thing: object, prefix: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(dotted name, dictionary, key) of every number and array of an object and of the objects inside it."""
    holder = vars(thing)
    for key in sorted(holder):
        value = holder[key]
        if key in NOT_STATE:
            continue
        if (isinstance(value, np.ndarray) and value.dtype.kind == "f") or (
            isinstance(value, (float, int)) and not isinstance(value, bool)
        ):
            yield prefix + key, holder, key
        elif type(value).__module__.startswith("ase.md."):
            yield from _numbers(value, f"{prefix}{key}.")
