"""Save and restore the state that continues a run bit for bit: structure, integrator, random numbers, monitor.

A checkpoint first writes trajectory and history to disk, then the state.  After a kill the files may hold more than the state,
never less; the excess is cut off, since the run writes it again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ase
import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.md.md import MolecularDynamics

from blipcalc.adapters.ase_results import electrons
from blipcalc.calculators.bayesian import bayesian_of
from blipcalc.core.constraints import content_of
from blipcalc.core.signature import Signature, difference, probe_of, signature_of
from blipcalc.errors import CheckpointWarning, ConfigurationError, warn_user
from blipcalc.files.run_folder import State
from blipcalc.md.integrators import restore_variables, variables
from blipcalc.model_file.manifest import StoredCalibration
from blipcalc.monitor.observer import UncertaintyMonitor


@runtime_checkable
class Stateful(Protocol):
    """Observer with a memory."""

    def state(self) -> dict[str, Any]:
        """Return the memory as plain values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the memory from :meth:`state`."""
        ...


def identity(atoms: Atoms) -> Signature:
    """Return the identity of a run: its initial structure, with momenta if given, and its calculator.

    Momenta drawn by the run follow from its seed and its temperature.
    """
    digest = hashlib.sha256(repr([content_of(constraint) for constraint in atoms.constraints]).encode())
    electronic = (atoms.get_initial_charges(), atoms.get_initial_magnetic_moments())
    for values in (atoms.numbers, atoms.get_masses(), atoms.positions, atoms.cell.array, atoms.pbc, *electronic):
        digest.update(np.ascontiguousarray(values).tobytes())
    digest.update(repr(sorted(electrons(atoms.info).items())).encode())
    momenta = atoms.get_momenta()
    digest.update(momenta.tobytes() if momenta.any() else b"drawn")
    calculator = signature_of(atoms.calc, probe_of(atoms))
    digest.update(calculator.name.encode())
    return Signature(digest.hexdigest(), calculator.numbers)


def check_calculator(then: Signature, now: Signature, atoms: Atoms, folder: Path) -> None:
    """Raise :class:`ConfigurationError` for a calculator with other numbers than that of the run in a folder.

    atoms : initial structure of the run, with the calculator
    warns : CheckpointWarning for a calculator that is not deterministic
    """
    found = difference(then, now, lambda: identity(atoms))
    if found.other:
        raise ConfigurationError(
            f"{folder} holds a run with another calculator: {found.reason}; give the calculator of that run, or another folder"
        )
    if found.reason:
        warn_user(
            f"the calculator is not deterministic, and the run does not go on bit for bit: {found.reason}",
            CheckpointWarning,
        )


def versions() -> dict[str, str]:
    """Return {package: version} of the packages on which numbers depend."""
    try:
        own = importlib.metadata.version("blipcalc")
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    return {
        "blipcalc": own,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "ase": ase.__version__,
    }


def provenance(calc: Calculator | None) -> dict[str, Any]:
    """Return settings of the calculator, constants of its calibration, and versions, as plain values for a reader."""
    settings: dict[str, Any] = {"calculator": type(calc).__name__}
    calibration, model = None, bayesian_of(calc)
    stored: dict[str, Any] | None = None
    if model is not None:
        settings |= {key: model.parameters[key] for key in ("n_draws", "seed", "surface", "dtype", "raw")}
        calibration = model.calibration
    if calibration is not None:
        fields = {name: getattr(calibration, name) for name in StoredCalibration.model_fields}
        stored = StoredCalibration.of(fields).model_dump(mode="json")
    return {"settings": settings, "calibration": stored, "versions": versions()}


def environment(calc: Calculator | None) -> dict[str, Any]:
    """Return versions, machine, threads and device, on which bitwise reproducibility depends."""
    model = bayesian_of(calc)
    return {
        **{name: version for name, version in versions().items() if name != "blipcalc"},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": "cpu" if model is None else str(model.predictor.device),
    }


def state_of(
    dynamics: MolecularDynamics,
    rng: np.random.Generator,
    monitor: UncertaintyMonitor,
    observers: Sequence[object],
    seconds: float,
) -> State:
    """Return the state of a run after a whole step."""
    atoms = dynamics.atoms
    structure = {"positions": atoms.positions, "momenta": atoms.get_momenta(), "cell": atoms.cell.array}
    watching, arrays = monitor.state()
    parts = {"atoms": structure, "integrator": variables(dynamics), "monitor": arrays}
    tensors = {
        kind: {name: torch.from_numpy(np.array(v, dtype=np.float64)) for name, v in part.items()}
        for kind, part in parts.items()
    }
    figures = {
        "step": dynamics.nsteps,
        "seconds": seconds,
        "rng": rng.bit_generator.state,
        "monitor": watching,
        "observers": [observer.state() if isinstance(observer, Stateful) else None for observer in observers],
        "environment": environment(atoms.calc),
        "provenance": provenance(atoms.calc),
    }
    return State(tensors, figures)


def restore(
    state: State,
    dynamics: MolecularDynamics,
    rng: np.random.Generator,
    monitor: UncertaintyMonitor,
    observers: Sequence[object],
) -> None:
    """Restore the state of a run; warns if the run will not continue bit for bit."""
    atoms = dynamics.atoms
    structure = {name: value.numpy() for name, value in state.of("atoms").items()}
    shapes, expected = {name: value.shape for name, value in structure.items()}, atoms.positions.shape
    if shapes != {"positions": expected, "momenta": expected, "cell": (3, 3)}:
        raise ConfigurationError(f"the checkpoint holds arrays {shapes}, the structure has {len(atoms)} atoms")
    atoms.set_cell(structure["cell"])
    atoms.positions[:] = structure["positions"]
    # unchanged: constraints were applied to them before
    atoms.set_momenta(structure["momenta"], apply_constraint=False)
    restore_variables(dynamics, {name: value.numpy() for name, value in state.of("integrator").items()})
    rng.bit_generator.state = state.figures["rng"]
    dynamics.nsteps = state.figures["step"]
    monitor.restore(state.figures["monitor"], {name: value.numpy() for name, value in state.of("monitor").items()})
    kept = state.figures["observers"]
    if [isinstance(observer, Stateful) for observer in observers] != [memory is not None for memory in kept]:
        raise ConfigurationError(f"the run had {len(kept)} further observers, this one has other ones")
    for observer, memory in zip(observers, kept, strict=True):
        if isinstance(observer, Stateful):
            observer.restore(memory)
    then, now = state.figures["environment"], environment(atoms.calc)
    changed = {key: (then.get(key), now[key]) for key in now if then.get(key) != now[key]}
    if changed or now["device"] != "cpu":
        why = f"{changed} (then, now)" if changed else f"sums on {now['device']} have no fixed order"
        warn_user(
            f"the run goes on statistically equivalent, not bit for bit: {why}",
            CheckpointWarning,
        )
