"""Checks before a calibration is fitted: enough frames, and no errors without a spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from blipcalc.calibration.residuals import Residuals
from blipcalc.core.contracts import Surface
from blipcalc.data.silent_forces import ROUNDING, informing_frames
from blipcalc.errors import CalibrationError

#: an element in fewer frames stays uncalibrated: its scale would be uncertain by at least sqrt(2 / 30) = 26 %
MINIMUM_FRAMES = 10


def check_enough(frames: Sequence[Atoms]) -> None:
    """Raise :class:`CalibrationError` for labelled frames on which no element can be calibrated with any model.

    Either there are too few, or too few with forces that do not all vanish.
    """
    if len(frames) < MINIMUM_FRAMES:
        raise CalibrationError(
            f"{len(frames)} frames are held out, and calibration takes {MINIMUM_FRAMES} or more; give more frames, a larger "
            "fraction (--set data.calibration=…), or --no-calibrate"
        )
    well_known(informing_frames(frames))


def well_known(frames_of: Mapping[int, int]) -> dict[int, int]:
    """Return the elements with informative forces in enough frames; raises CalibrationError where there is none."""
    counts = {z: n for z, n in frames_of.items() if n >= MINIMUM_FRAMES}
    if not counts:
        found = ", ".join(f"{chemical_symbols[z]} in {n}" for z, n in frames_of.items())
        raise CalibrationError(
            f"expected an element with forces that do not vanish by symmetry in at least {MINIMUM_FRAMES} frames, got {found}; "
            "label more frames whose atoms are displaced, or leave out the calibration (--no-calibrate)"
        )
    return counts


def check_residuals(residuals: Residuals, surface: Surface, n_draws: int) -> None:
    """Raise :class:`CalibrationError` for residuals to which no constant can be fitted."""
    if residuals.calibration is not None:
        raise CalibrationError("these residuals are calibrated already; collect them with raw=True")
    if (residuals.surface, residuals.n_draws) != (surface, n_draws):
        raise CalibrationError(
            f"residuals of surface={residuals.surface!r}, K={residuals.n_draws} cannot calibrate {surface!r}, K={n_draws}"
        )
    columns = (
        ("force", residuals.force_error, residuals.forces_var, residuals.scored, residuals.silent, residuals.frame),
        (
            "energy",
            residuals.energy_error[:, None],
            residuals.energy_var[:, None],
            residuals.scored_energy[:, None],
            residuals.silent_energy[:, None],
            np.arange(residuals.n_frames),
        ),
    )
    for name, error, variance, scored, silent, frame in columns:
        bad = ~(silent | scored).all(axis=1)
        if bad.any():
            raise CalibrationError(
                f"{np.count_nonzero(bad)} of {len(bad)} {name} errors are not finite or come without a spread, first in "
                f"frames {sorted(set(frame[bad].tolist()))[:5]} ({_first(residuals, name, error, variance, bad)}): where the "
                "draws agree and the label differs no factor mends the error bar; look at the label of that frame, leave it "
                "out, and use a posterior with at least two different draws"
            )
        if not error[~silent].any() and not (name == "force" and silent.all()):
            raise CalibrationError(f"all {name} errors are zero: are the labels the model's own?")


def _first(residuals: Residuals, name: str, error: np.ndarray, variance: np.ndarray, bad: np.ndarray) -> str:
    """Return a description of the first such error."""
    row = int(np.flatnonzero(bad)[0])
    worst = int(np.argmax(np.where(variance[row] <= ROUNDING**2, np.abs(error[row]), -1.0)))
    found = f"an error of {error[row, worst]:.3g} with a spread of {np.sqrt(variance[row, worst]):.2g}"
    if name == "energy":
        return f"frame {row}: {found} eV"
    frame = int(residuals.frame[row])
    atom = row - int(np.flatnonzero(residuals.frame == frame)[0])
    symbol, axis = chemical_symbols[int(residuals.species[row])], "xyz"[worst]
    return f"frame {frame}, atom {atom}, {symbol}, along {axis}: {found} eV/Å"
