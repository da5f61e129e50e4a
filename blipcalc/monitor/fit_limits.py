"""Fit limits to unlabelled trajectories of a reference run: compute R_t of every frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from blipcalc.calibration.residuals import BATCH_ATOMS, batches, collect
from blipcalc.core.demanded import demanded
from blipcalc.core.dropped_by_ase import put_back
from blipcalc.core.prediction import Calibration
from blipcalc.core.predictor_contract import Need, predictions
from blipcalc.data.xyz import check_counts
from blipcalc.errors import ConfigurationError, DataError, LimitsError
from blipcalc.files.checksums import verify
from blipcalc.monitor.decisions import Reading
from blipcalc.monitor.fitted_criterion import DISTANCE, RATIO, Signal
from blipcalc.monitor.limits import Limits, check_settings, chosen_criteria, fit_limits
from blipcalc.monitor.readings import movable
from blipcalc.monitor.run_criteria import SMALLEST, HaltRatio
from blipcalc.predictor import BayesianPredictor
from blipcalc.settings import several
from blipcalc.stats.shift import Shifted, shifted_quantile


def check_reference(
    predictor: BayesianPredictor,
    trajectories: Sequence[str | Path | Sequence[Atoms]],
    *,
    interval_fs: float,
    tolerance: float,
    rate_per_ns: float = 0.1,
    level: float = 0.95,
    confidence: float = 0.95,
    criteria: Sequence[str] | None = None,
    index: str = ":",
    labelled: Sequence[Atoms] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Limits:
    """Return limits on the uncertainty of a calibrated predictor, fitted to unlabelled reference MD.

    Parameters
    ----------
    predictor : calibrated
    trajectories : one file or one sequence of frames for each replica, frames at equal intervals
    interval_fs : between the frames used; the interval between checks of the guarded runs must be the same
    tolerance : ε_tol, eV/Å, on the norm of a force error
    rate_per_ns, confidence, criteria : see :func:`~blipcalc.monitor.limits.fit_limits`
    level : of the quantiles q_atom
    index : ASE slice of the frames of each file
    labelled : hundreds of frames with labels outside the training data; their conformal quantile of whole frames is reweighted
        to the reference run, see :mod:`blipcalc.stats.shift`
    progress : called with the number of frames done

    Raises
    ------
    LimitsError : no calibration, an element without a quantile, a run too short
    CalibrationError : a level that was not calibrated
    DataError : a file that cannot be read, or holds no frames
    """
    if predictor.calibration is None:
        raise LimitsError("limits take a calibrated model: run 'blipcalc calibrate' for these draws and this surface")
    # before the predictions, which take long
    check_settings(interval_fs, rate_per_ns, confidence, tolerance, level)
    chosen = chosen_criteria(criteria, has_domain=predictor.domain is not None)
    if isinstance(trajectories, (Path, Atoms)):
        raise ConfigurationError("trajectories: expected a list of replicas, not one of them")
    trajectories = several(
        "trajectories", trajectories, "a list of replicas, each the path of a file or a list of frames"
    )
    quantiles = element_quantiles(predictor.calibration, level)
    ratio, done = HaltRatio(quantiles, tolerance), 0
    signals = {signal.name: signal for signal in (RATIO, *(criterion.signal for criterion in chosen.values()))}
    series: dict[str, list[np.ndarray]] = {name: [] for name in signals}
    for trajectory in trajectories:
        readings: list[Reading] = []
        frames = _frames(trajectory, index)
        _check_interval(frames, interval_fs)
        for batch in batches(frames, BATCH_ATOMS):
            batch = list(batch)
            readings += _readings(predictor, ratio, batch, signals.values())
            done += len(batch)
            if progress is not None:
                progress(done)
        for name, signal in signals.items():
            series[name].append(np.array([signal.value(ratio, reading) for reading in readings]))
    return fit_limits(
        series,
        interval_fs,
        predictor.calibration,
        quantiles,
        tolerance=tolerance,
        level=level,
        rate_per_ns=rate_per_ns,
        confidence=confidence,
        criteria=list(chosen),
        domain_hash=None if predictor.domain is None else predictor.domain.hash,
        frames=None if labelled is None else _frames_there(predictor, ratio, labelled, level, series),
    )


def _frames_there(
    predictor: BayesianPredictor,
    ratio: HaltRatio,
    labelled: Sequence[Atoms],
    level: float,
    series: Mapping[str, Sequence[np.ndarray]],
) -> Shifted:
    """Return the conformal quantile of a frame's largest score, reweighted from labelled frames to the reference run.

    The weights depend on ln R and, if it is watched, on the latent distance.
    """
    signals = [signal for signal in (RATIO, DISTANCE) if signal.name in series]
    residuals, readings = collect(predictor, labelled), []
    for batch in batches(labelled, BATCH_ATOMS):
        readings += _readings(predictor, ratio, list(batch), signals)
    here = np.array([[signal.value(ratio, reading) for signal in signals] for reading in readings])
    there = np.stack([np.concatenate(series[signal.name]) for signal in signals], axis=1)
    for values in (here, there):
        values[:, 0] = np.log(np.maximum(values[:, 0], SMALLEST))
    scores = residuals.frame_ratio
    speaking = ~np.isnan(scores)  # NaN: all forces of the frame vanish by symmetry
    return shifted_quantile(scores[speaking], here[speaking], there, level)


def element_quantiles(calibration: Calibration, level: float) -> dict[str, float]:
    """Return {symbol: q_atom} of the elements with a finite quantile at a level."""
    known = np.array(sorted(calibration.q_atom))
    values = calibration.atom_quantile(known, level)
    return {chemical_symbols[z]: float(q) for z, q in zip(known, values, strict=True) if np.isfinite(q)}


def _frames(trajectory: str | Path | Sequence[Atoms], index: str) -> list[Atoms]:
    """Return the frames of a replica."""
    if not isinstance(trajectory, (str, Path)):
        frames = several("replica", trajectory, "a path or a list of Atoms", error=DataError)
        if not all(isinstance(atoms, Atoms) for atoms in frames):
            raise DataError(f"a replica holds {type(frames[0]).__name__}, expected a path or a list of Atoms")
        return frames
    verify(trajectory)
    check_counts(trajectory)
    try:
        frames = list(ase.io.iread(trajectory, index))
    except Exception as error:  # each reader raises errors of other types
        raise DataError(f"{trajectory} cannot be read as a trajectory: {error}") from error
    if not frames:
        raise DataError(f"{trajectory} holds no frames for index {index!r}")
    for atoms in frames:
        put_back(atoms)
    return frames


def _check_interval(frames: Sequence[Atoms], interval_fs: float) -> None:
    """Raise :class:`LimitsError` for an interval that differs from the frames' times, if they hold them."""
    times = [atoms.info["time_fs"] for atoms in frames if "time_fs" in atoms.info]
    steps = np.diff(times) if len(times) == len(frames) else np.empty(0)
    if steps.size and not np.allclose(steps[:-1], interval_fs, rtol=1e-6):
        raise LimitsError(
            f"the frames are {np.median(steps):g} fs apart by their own times, not interval_fs={interval_fs:g}"
        )


def _readings(
    predictor: BayesianPredictor, ratio: HaltRatio, batch: Sequence[Atoms], signals: Iterable[Signal]
) -> list[Reading]:
    """Return the reading of each structure of a batch; raises :class:`LimitsError` for an atom without a bound."""
    watches_distance = any(signal.needs_domain for signal in signals)
    distances = predictor.latent_distances(batch) if watches_distance else [None] * len(batch)
    found = []
    for atoms, prediction, far in zip(batch, predictions(predictor, batch, Need()), distances, strict=True):
        symbols = tuple(atoms.get_chemical_symbols())
        energy_std = math.nan if prediction.energy_var is None else math.sqrt(prediction.energy_var)
        mask, forces = movable(atoms), prediction.forces
        reading = Reading(
            0,
            symbols,
            demanded(prediction.atom_std, "variances of the forces"),
            energy_std,
            mask,
            latent_distance=far,
            positions=atoms.positions,
            forces=forces,
        )
        if np.isnan(ratio.largest(reading)):
            missing = sorted(set(symbols) - set(ratio.quantiles))
            raise LimitsError(
                f"{', '.join(missing) or 'an atom'} has no calibrated bound at this level; calibrate with more frames"
            )
        found.append(reading)
    return found
