"""Make ASE's integrators by name, and read and restore their state for a restart.

| name | ensemble | integrator | coupling |
|---|---|---|---|
| ``nve`` | NVE | VelocityVerlet | |
| ``langevin`` | NVT | Langevin, ``fixcm=False`` | ``friction_per_fs`` |
| ``baoab`` | NVT | LangevinBAOAB | ``friction_per_fs`` |
| ``bussi`` | NVT | Bussi | ``damping_fs`` |
| ``nose-hoover`` | NVT | NoseHooverChainNVT | ``damping_fs`` |
| ``npt`` | NPT, isotropic | IsotropicMTKNPT | ``damping_fs``, ``pressure_damping_fs`` |
| ``npt-cell`` | NPT, full cell | MTKNPT | ``damping_fs``, ``pressure_damping_fs`` |
| ``npt-baoab`` | NPT, isotropic | LangevinBAOAB | ``friction_per_fs``, ``pressure_damping_fs`` |

``fixcm=True``, ASE's default for Langevin, samples a temperature that is too high by N/(N - 1).

Here thermostats count the moving degrees of freedom (:mod:`blipcalc.core.degrees_of_freedom`); in ASE, Bussi subtracts
constraints but not conserved momenta, and chains count 3N.  MTKNPT counts 9 momenta of the cell; a symmetric stress moves 6.

Chains of thermostats equilibrate slowly for few, stiffly bound atoms: with four atoms the variance of the kinetic energy is
still 1.1 times its value after 40 ps, with or without a barostat.  Use ``langevin``, ``bussi`` or ``npt-baoab`` there.

| constraints | nve, langevin, bussi | baoab | nose-hoover, NPT |
|---|---|---|---|
| none, or without fixed momenta (``Hookean``) | correct | correct | correct; NPT: only without constraints |
| atoms, planes, lines, centre of mass, symmetry | correct | correct | refused |
| bond lengths, angles | correct | refused: moves atoms without the constraints | refused |
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from ase import Atoms, units
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import (
    MTKNPT,
    IsotropicMTKBarostat,
    IsotropicMTKNPT,
    MTKBarostat,
    NoseHooverChainNVT,
    NoseHooverChainThermostat,
)
from ase.md.verlet import VelocityVerlet
from pydantic import Field

from blipcalc.core.degrees_of_freedom import (
    DegreesOfFreedom,
    check_constraints,
    degrees_of_freedom,
    depends_on_positions,
)
from blipcalc.errors import ConfigurationError
from blipcalc.settings import Settings

Ensemble = Literal["nve", "langevin", "baoab", "bussi", "nose-hoover", "npt", "npt-cell", "npt-baoab"]
NPT = ("npt", "npt-cell", "npt-baoab")
#: ensembles with random momenta, so that the run conserves none
RANDOM = ("langevin", "baoab", "npt-baoab")
#: thermostats that scale all momenta, so that conserved momenta stay conserved
GLOBAL = ("bussi", "nose-hoover", "npt", "npt-cell")
#: thermostats whose temperature may follow a course
WITH_COURSE = ("langevin", "bussi")
#: integrators with chains of thermostats
CHAINS = {"nose-hoover": NoseHooverChainNVT, "npt": IsotropicMTKNPT, "npt-cell": MTKNPT}
#: attributes of an integrator that are not its state
NOT_STATE = {"atoms", "optimizable", "observers", "max_steps", "nsteps", "masses", "_masses", "dt", "rng"}


class IntegratorConfig(Settings):
    """Name of an integrator, and its constants."""

    ensemble: Ensemble = "langevin"
    timestep_fs: float = Field(default=0.5, gt=0)
    friction_per_fs: float = Field(default=0.01, gt=0, description="of langevin, baoab, npt-baoab")
    damping_fs: float = Field(
        default=100.0, gt=0, description="time of the thermostat of bussi, nose-hoover, npt, npt-cell"
    )
    pressure_GPa: float = Field(default=0.0, description="of the NPT ensembles")
    pressure_damping_fs: float = Field(default=1000.0, gt=0, description="time of the barostat")


def integrator(
    atoms: Atoms,
    config: IntegratorConfig,
    temperature_K: float,
    rng: np.random.Generator,
    degrees: DegreesOfFreedom | None = None,
) -> MolecularDynamics:
    """Return the integrator of a structure.

    degrees : of freedom, from :func:`counted`; None counts them.  Global thermostats expect momenta without conserved total and
        angular momentum

    raises : ConfigurationError as :func:`counted`, and for whatever else ASE's integrator refuses
    """
    try:
        return _integrator(atoms, config, temperature_K, rng, degrees or counted(atoms, config.ensemble))
    except (ValueError, NotImplementedError, ArithmeticError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"ensemble={config.ensemble!r} cannot run this structure: {error}") from error


def counted(atoms: Atoms, ensemble: Ensemble) -> DegreesOfFreedom:
    """Return the moving degrees of freedom of a structure in an ensemble.

    raises : ConfigurationError for NPT without a periodic cell, if nothing moves, and for constraints that ASE's integrator
        cannot keep at the right temperature
    """
    if ensemble in NPT and not atoms.pbc.all():
        raise ConfigurationError(
            f"ensemble={ensemble!r} needs a cell periodic in three directions; pbc is {atoms.pbc.tolist()}"
        )
    check_constraints(atoms)
    degrees = degrees_of_freedom(atoms, random_momenta=ensemble in RANDOM)
    if ensemble in GLOBAL and degrees.number < 1:
        raise ConfigurationError(
            f"ensemble={ensemble!r} scales momenta, and nothing moves: of {3 * len(atoms)} degrees of freedom constraints hold "
            f"{degrees.n_held}, and momenta that the run conserves are the rest, as for a single atom; take langevin"
        )
    names = ", ".join(type(constraint).__name__ for constraint in atoms.constraints)
    if degrees.n_held and (ensemble == "nose-hoover" or ensemble in NPT):
        raise ConfigurationError(
            f"ensemble={ensemble!r} cannot hold constraints ({names}) at the right temperature; expected none that hold momenta: "
            "take langevin or bussi"
        )
    if ensemble == "baoab" and degrees.n_held and depends_on_positions(atoms):
        raise ConfigurationError(
            f"ensemble='baoab' moves atoms without constraints that depend on positions ({names}); take langevin or bussi"
        )
    return degrees


def _integrator(
    atoms: Atoms, config: IntegratorConfig, temperature_K: float, rng: np.random.Generator, degrees: DegreesOfFreedom
) -> MolecularDynamics:
    c, dt = config, config.timestep_fs * units.fs
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
                raise ConfigurationError("ensemble='bussi' scales momenta, and these are zero; set momenta")
            bussi = Bussi(atoms, dt, temperature_K=temperature_K, taut=tdamp, rng=rng)
            bussi.ndof = degrees.number
            set_temperature(bussi, temperature_K)
            return bussi
        case "npt-baoab":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Using heuristic P_mass", UserWarning)  # the heuristic is intended
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
    kind = CHAINS[c.ensemble]
    barostat = {} if kind is NoseHooverChainNVT else {"pressure_au": pressure, "pdamp": pdamp}
    chain = kind(atoms, dt, temperature_K=temperature_K, tdamp=tdamp, **barostat)
    _count(chain, degrees.number, temperature_K, tdamp, pdamp)
    return chain


def _count(
    chain: NoseHooverChainNVT | IsotropicMTKNPT | MTKNPT, number: int, temperature_K: float, tdamp: float, pdamp: float
) -> None:
    """Make a chain count f degrees of freedom instead of three per atom: its equations hold for N = f / 3."""
    # ASE's types say int; it computes with any number
    n = number / 3
    chain._thermostat = NoseHooverChainThermostat(n, chain.masses, temperature_K, tdamp)  # type: ignore[arg-type]
    if isinstance(chain, IsotropicMTKNPT):
        chain._num_atoms_global = n
        chain._barostat = IsotropicMTKBarostat(n, temperature_K, pdamp)  # type: ignore[arg-type]
    elif isinstance(chain, MTKNPT):
        chain._num_atoms_global = n
        # the mask is counted only: a symmetric stress moves six of nine momenta of the cell
        chain._barostat = MTKBarostat(n, temperature_K, pdamp, mask=(True,) * 6)  # type: ignore[arg-type]


@runtime_checkable
class Thermostatted(Protocol):
    """ASE integrator whose thermostat temperature can be changed."""

    def set_temperature(self, temperature: float | None = None, temperature_K: float | None = None) -> None:
        """Set the temperature of the thermostat, K."""
        ...


def set_temperature(dynamics: MolecularDynamics, temperature_K: float) -> None:
    """Set the temperature of a thermostat of :data:`WITH_COURSE`; raises :class:`ConfigurationError` for others."""
    if isinstance(dynamics, Bussi):
        dynamics.temp = temperature_K * units.kB
        dynamics.target_kinetic_energy = 0.5 * dynamics.temp * dynamics.ndof
    elif isinstance(dynamics, Thermostatted):
        dynamics.set_temperature(temperature_K=temperature_K)
    else:
        raise ConfigurationError(f"{type(dynamics).__name__} has no thermostat to follow a course of temperatures")


def variables(dynamics: MolecularDynamics) -> dict[str, np.ndarray]:
    """Return {name: value} of all numbers and arrays that an integrator and its thermostats hold, float64.

    ASE keeps the variables of chains and barostats in private attributes, so all attributes are taken, including those of later
    ASE versions.
    """
    return {name: np.asarray(holder[key], dtype=np.float64) for name, holder, key in _numbers(dynamics, "")}


def restore_variables(dynamics: MolecularDynamics, values: dict[str, np.ndarray]) -> None:
    """Restore :func:`variables`; raises :class:`ConfigurationError` for an integrator with others."""
    missing = sorted({name for name, _, _ in _numbers(dynamics, "")} - values.keys())
    if missing:
        raise ConfigurationError(f"the checkpoint is of another integrator: it lacks {', '.join(missing)}")
    for name, value in values.items():
        *parents, key = name.split(".")
        holder = vars(dynamics)
        for parent in parents:
            holder = vars(holder[parent])
        # attributes that an integrator creates during a run do not exist yet
        number = not np.ndim(value) and not isinstance(holder.get(key), np.ndarray)
        holder[key] = type(holder.get(key, 0.0))(value) if number else np.array(value)


def _numbers(thing: object, prefix: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield (dotted name, dictionary, key) of every number and array of an object and of the objects inside it."""
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
