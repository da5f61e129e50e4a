"""Read the trajectory of a run: largest uncertainty of each element in every frame, and the frame to draw."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from blipcalc.errors import DamagedFileError, DataError
from blipcalc.io import iterate
from blipcalc.md.run_files import STEP
from blipcalc.monitor.decisions import worst_first
from blipcalc.monitor.readings import movable

#: errors that ASE raises for a damaged file
DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error)


@dataclass(frozen=True)
class Frame:
    """One frame with finite positions, which can be drawn.

    atom_std : (n,) eV/Å; NaN if not stored
    mask : (n,) True for atoms that can move
    """

    atoms: Atoms
    step: int
    atom_std: np.ndarray
    mask: np.ndarray

    @property
    def worst_atom(self) -> int:
        """Return the index of the largest ``atom_std`` of the atoms that can move; 0 if none is known."""
        known = self.mask & np.isfinite(self.atom_std)
        return worst_first(self.atom_std, known)[0] if known.any() else 0


@dataclass
class Traces:
    """Largest uncertainties of the frames that store them, in the order of the file.

    step, time_fs : (f,)
    largest : {symbol: (f,) largest ``atom_std`` of the atoms that can move, eV/Å; NaN if one of them is}
    worst : the frame with the largest finite ``atom_std``; last : the last frame; both with finite positions
    n_frames : in the file, with or without uncertainties
    formula : of the structure
    provenance : n_draws, seed, surface of the uncertainties, if stored in the frames
    """

    step: list[int] = field(default_factory=list)
    time_fs: list[float] = field(default_factory=list)
    largest: dict[str, list[float]] = field(default_factory=dict)
    worst: Frame | None = None
    last: Frame | None = None
    n_frames: int = 0
    formula: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    _record: float = -math.inf

    def add(self, atoms: Atoms) -> None:
        """Add the next frame."""
        self.n_frames += 1
        self.formula = self.formula or atoms.get_chemical_formula()
        results = {} if atoms.calc is None else atoms.calc.results
        stored = results.get("atom_std")
        std = np.full(len(atoms), np.nan) if stored is None else np.asarray(stored, dtype=float)
        step, mask = int(atoms.info.get(STEP, self.n_frames - 1)), movable(atoms)
        frame = Frame(atoms, step, std, mask) if len(atoms) and np.isfinite(atoms.positions).all() else None
        self.last = frame or self.last
        if stored is None:
            return
        self.provenance = self.provenance or dict(atoms.calc.parameters)
        symbols = np.array(atoms.get_chemical_symbols())
        for symbol in np.unique(symbols[mask]):
            row = self.largest.setdefault(str(symbol), [math.nan] * len(self.step))
            row.append(float(std[mask & (symbols == symbol)].max()))
        self.step.append(step)
        self.time_fs.append(float(atoms.info.get("time_fs", math.nan)))
        known = std[mask & np.isfinite(std)]
        if frame is not None and known.size and known.max() > self._record:
            self._record, self.worst = float(known.max()), frame


def read_traces(path: Path | None) -> Traces:
    """Return the traces of a trajectory, reading it once and frame by frame.

    raises : DataError for a file that cannot be read
    """
    traces = Traces()
    if path is None:
        return traces
    try:
        for atoms in iterate(path):
            traces.add(atoms)
    except DamagedFileError:
        raise
    except (DataError, *DAMAGE) as error:
        raise DataError(
            f"{path} cannot be read as a trajectory, after {traces.n_frames} frames: {type(error).__name__} {error}; move "
            "it away for a page without it"
        ) from error
    return traces
