"""Read a stored run for averages: frames, temperature, calibration, and energies of the draws.

Frames of checks, and all frames of ``run_md(keep_draws=True)``, hold the energies of the draws; others are evaluated in batches
by a given calculator.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from blipcalc.calculators.bayesian import DEVIATIONS
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.calculators.snapshot import SnapshotCalculator
from blipcalc.core.prediction import Calibration
from blipcalc.errors import ConfigurationError, DataError
from blipcalc.io import iterate
from blipcalc.md.run_files import EVENTS, STEP, SUMMARY, TRAJECTORY
from blipcalc.md.summary import StoredConfig, StoredRun, read_checkpoint, read_summary
from blipcalc.monitor.events import events_of
from blipcalc.settings import number, several

Source = Path | Sequence[Atoms]
#: eV per atom, tolerance between the energies of a frame and of a calculator of the same model
SAME_MODEL = 1e-3
#: eV, least scale for comparing draws: smaller spreads are comparable to rounding
SAME_DRAWS = 1e-3


@dataclass(frozen=True)
class Stored:
    """Replicas of one stored run.

    replicas : files, or lists of frames
    temperature_K : of its ensemble
    calibration : of its calculator; None if there is none or it is not stored
    write_every : steps between regular frames of run folders, to leave out the frame that halted a run; None for others
    """

    replicas: tuple[Source, ...]
    temperature_K: float
    calibration: Calibration | None
    write_every: int | None

    def frames(self, replica: Source) -> Iterator[Atoms]:
        """Yield the regular frames of one replica."""
        for atoms in iterate(replica) if isinstance(replica, Path) else replica:
            if self.write_every is None or atoms.info.get(STEP, 0) % self.write_every == 0:
                yield atoms


def stored_run(run: Any, temperature_K: float | None = None) -> Stored:
    """Return a run from a folder, a trajectory, frames, or several of the first two as replicas.

    temperature_K : of a run without a stored temperature; a stored one must agree

    Raises
    ------
    ConfigurationError : no temperature, different or changing temperatures, a run at constant energy, or one that was rolled back
    DataError : nothing that can be read
    """
    what = "a run folder, a trajectory, frames, or a list of the first two"
    parts = [run] if isinstance(run, (str, Path)) else several("run", run, what)
    if odd := [part for part in parts if not isinstance(part, (str, Path, Atoms))]:
        raise DataError(f"expected {what}, got {reprlib.repr(odd[0])} among them")
    if not parts:
        raise DataError("expected a run folder, a trajectory or frames, got an empty list")
    temperature_K = None if temperature_K is None else number("temperature_K", temperature_K, above=0.0)
    frames = [part for part in parts if isinstance(part, Atoms)]
    if len(frames) == len(parts):
        return Stored((frames,), _agreed({temperature_K}, "these frames"), None, None)
    replicas, known, calibrations, strides = [], {temperature_K}, [], set()
    for path in map(Path, parts):
        if not path.is_dir():
            replicas.append(path)
            continue
        said = _record(path)
        _check_events(path)
        known.add(_temperature(said.config, path))
        stored = said.provenance.calibration
        calibrations.append(None if stored is None else stored.calibration())
        strides.add(said.config.write_every)
        replicas.append(path / Path(said.config.trajectory or TRAJECTORY).name)
    missing = [str(path) for path in replicas if not path.is_file()]
    if missing:
        raise DataError(f"no trajectory {', '.join(missing)}")
    calibration = calibrations[0] if calibrations else None
    if len(strides) > 1 or any(other != calibration for other in calibrations):
        raise ConfigurationError(
            f"replicas of one run have one calibration and one interval between frames, got intervals of {strides} steps, and "
            f"{len(calibrations)} calibrations"
        )
    return Stored(tuple(replicas), _agreed(known, str(parts[0])), calibration, next(iter(strides), None))


def _record(folder: Path) -> StoredRun:
    """Return the settings and calibration of the run in a folder."""
    summary = read_summary(folder / SUMMARY)
    said = read_checkpoint(folder) if summary is None else summary[1]
    if said is None:
        raise DataError(
            f"{folder} is no run folder: expected {SUMMARY} or a checkpoint, as run_md(folder=…) leaves them"
        )
    return said


def _check_events(folder: Path) -> None:
    """Raise ConfigurationError for a run with roll-backs: their jumps and new momenta do not sample an ensemble."""
    events = folder / EVENTS
    rolled = [event.step for event in events_of(events) if event.event == "rollback"] if events.exists() else []
    if rolled:
        raise ConfigurationError(
            f"{folder} was rolled back {len(rolled)} times (first at step {rolled[0]}): its frames are of no ensemble; average a "
            "run that flags, or the part of the trajectory before the first rollback, as frames with temperature_K="
        )


def _temperature(config: StoredConfig, folder: Path) -> float:
    if config.ensemble == "nve":
        raise ConfigurationError(
            f"{folder} is a run at constant energy (nve), whose frames have no weights exp(-E / kT); run another ensemble"
        )
    if len(config.course) != 1:
        raise ConfigurationError(
            f"{folder} is a run along a course of temperatures {config.course}; an average is one of equilibrium, at a single one"
        )
    return config.course[0][1]


def _agreed(known: set[float | None], what: str) -> float:
    found = {value for value in known if value is not None}
    if not found:
        raise ConfigurationError(f"{what}: no temperature is known; give temperature_K= (--temperature-K)")
    if max(found) - min(found) > 1e-6:
        raise ConfigurationError(
            f"{what}: expected one temperature, got {', '.join(f'{t:g} K' for t in sorted(found))}"
        )
    return max(found)


class DrawEnergies:
    """Energies E_k - E (K,) eV of successive frames, as stored or evaluated in batches.

    calculator : for frames without stored energies; None raises an error for these
    batch : structures per evaluation
    """

    def __init__(self, calculator: Calculator | None, batch: int) -> None:
        self.surfaces = None if calculator is None else Surfaces(calculator)
        self.batch = batch
        self.found: list[Any] = []
        self._waiting: list[tuple[int, Atoms]] = []
        self._of_run: np.ndarray | None = None

    def add(self, atoms: Atoms) -> None:
        """Add the next frame."""
        held = atoms.calc.results if isinstance(atoms.calc, SnapshotCalculator) else {}
        if held.get("from_reference", 0.0):
            raise DataError(
                f"frame {len(self.found)} was driven by the reference, not by the model: such a run samples neither surface"
            )
        self.found.append(held.get(DEVIATIONS))
        if self.found[-1] is not None and self.surfaces is not None and self._of_run is None:
            # one frame suffices to check that the calculator is that of the run
            self._of_run = np.array(self.found[-1])
            self._check(self.surfaces, self._of_run, atoms)
        if self.found[-1] is None:
            if self.surfaces is None:
                raise DataError(
                    f"frame {len(self.found) - 1} holds no {DEVIATIONS}: no check was made there. Give calculator= (--model), "
                    "which evaluates such frames; a next run with keep_draws=True (--keep-draws) has them"
                )
            self._waiting.append((len(self.found) - 1, atoms))
            if len(self._waiting) >= self.batch:
                self._evaluate()

    def done(self) -> np.ndarray:
        """Return the energies (T, K); raises :class:`DataError` for frames with different numbers of draws."""
        self._evaluate()
        if len({len(row) for row in self.found}) != 1:
            raise DataError(
                f"frames hold energies of {sorted({len(row) for row in self.found})} draws; expected one number"
            )
        return np.array(self.found)

    def _check(self, surfaces: Surfaces, of_run: np.ndarray, atoms: Atoms) -> None:
        """Raise ConfigurationError for a calculator with draws other than those of the run."""
        (both,) = surfaces([atoms], forces=False)
        here = np.asarray(both.draws.energy - both.driving.energy)
        if len(here) == len(of_run):
            scale = max(float(np.std(of_run)), SAME_DRAWS)
            if np.abs(here - of_run).max() <= 0.1 * scale:
                return
        raise ConfigurationError(
            f"this calculator has other draws than those of the run: at frame {len(self.found) - 1} they lie "
            f"{np.round(here[:4], 4).tolist()} … eV above the surface that drives, stored are "
            f"{np.round(of_run[:4], 4).tolist()} …; give the same model, seed, n_draws and surface"
        )

    def _evaluate(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting or self.surfaces is None:
            return
        for (index, atoms), both in zip(waiting, self.surfaces([a for _, a in waiting], forces=False), strict=True):
            stored = math.nan if atoms.calc is None else atoms.calc.results.get("energy", math.nan)
            if abs(stored - both.driving.energy) > SAME_MODEL * len(atoms):
                raise ConfigurationError(
                    f"frame {index} has the energy {stored:.6g} eV, the calculator gives {both.driving.energy:.6g}: expected the "
                    "calculator that drove the run, with the exact parts that were added to it"
                )
            self.found[index] = both.draws.energy - both.driving.energy
