"""What a reference run says, check by check: R_t of every frame of unlabelled trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from blipcalc.calibration.residuals import BATCH_ATOMS, batches, collect
from blipcalc.core.dropped_by_ase import put_back
from blipcalc.core.prediction import Calibration
from blipcalc.core.predictor_contract import Need, predictions
from blipcalc.data.xyz import check_counts
from blipcalc.errors import ConfigurationError, DataError, LimitsError
from blipcalc.files.checksums import verify
from blipcalc.monitor.limits import ChannelName, Limits, check_settings, fit_limits
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
    channels: Sequence[ChannelName] | None = None,
    index: str = ":",
    labelled: Sequence[Atoms] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Limits:
    """Limits on the uncertainty of a calibrated predictor, from unlabelled reference MD.

    Parameters
    ----------
    predictor : calibrated
    trajectories : one file or one sequence of frames for each replica, frames at equal intervals
    interval_fs : between the frames that are used, which is that between checks of the runs to be guarded
    tolerance : ε_tol, eV/Å, on the norm of a force error
    rate_per_ns, confidence, channels : see :func:`~blipcalc.monitor.limits.fit_limits`
    level : of the quantiles q_atom
    index : ASE slice of the frames of each file
    labelled : frames with labels that the model has not seen, hundreds of them: what their conformal quantile of whole frames
        becomes for frames like those of the reference run, see :mod:`blipcalc.stats.shift`
    progress : called with the number of frames done

    Raises
    ------
    LimitsError : no calibration, an element without a quantile, a run too short
    CalibrationError : a level that was not calibrated
    DataError : a file that cannot be read, or holds no frames
    """
    if predictor.calibration is None:
        raise LimitsError("limits take a calibrated model: run 'blipcalc calibrate' for these draws and this surface")
    # before the long part
    has_domain = predictor.domain is not None
    check_settings(interval_fs, rate_per_ns, confidence, channels, tolerance, level, has_distances=has_domain)
    if isinstance(trajectories, (Path, Atoms)):
        raise ConfigurationError("trajectories: expected a list of replicas, not one of them")
    trajectories = several(
        "trajectories", trajectories, "a list of replicas, each the path of a file or a list of frames"
    )
    quantiles = element_quantiles(predictor.calibration, level)
    ratio, done, replicas, distances = HaltRatio(quantiles, tolerance), 0, [], []
    watches_distance = has_domain and (channels is None or "distance" in channels)
    for trajectory in trajectories:
        values, far = [], []
        frames = _frames(trajectory, index)
        _check_interval(frames, interval_fs)
        for batch in batches(frames, BATCH_ATOMS):
            batch = list(batch)
            values += _ratios(predictor, ratio, batch)
            far += _distances(predictor, batch) if watches_distance else []
            done += len(batch)
            if progress is not None:
                progress(done)
        replicas.append(np.array(values))
        distances.append(np.array(far))
    return fit_limits(
        replicas,
        interval_fs,
        predictor.calibration,
        quantiles,
        tolerance=tolerance,
        level=level,
        rate_per_ns=rate_per_ns,
        confidence=confidence,
        channels=channels,
        distances=distances if watches_distance else None,
        domain_hash=predictor.domain.hash if watches_distance else None,
        frames=None
        if labelled is None
        else _frames_there(predictor, ratio, labelled, level, replicas, distances if watches_distance else None),
    )


def _frames_there(
    predictor: BayesianPredictor,
    ratio: HaltRatio,
    labelled: Sequence[Atoms],
    level: float,
    replicas: Sequence[np.ndarray],
    distances: Sequence[np.ndarray] | None,
) -> Shifted:
    """The quantile of a frame's largest score, weighted from labelled frames to those of the reference run.

    Frames are told apart by ln R and, where there is one, the latent distance.
    """
    residuals = collect(predictor, labelled)
    here, there = [], []
    for batch in batches(labelled, BATCH_ATOMS):
        batch = list(batch)
        far = _distances(predictor, batch) if distances is not None else [0.0] * len(batch)
        here += zip(np.log(np.maximum(_ratios(predictor, ratio, batch), SMALLEST)), far, strict=True)
    for k, values in enumerate(replicas):
        far = np.zeros(len(values)) if distances is None else distances[k]
        there += zip(np.log(np.maximum(values, SMALLEST)), far, strict=True)
    scores = residuals.frame_ratio
    speaking = ~np.isnan(scores)  # forces of the others vanish by symmetry
    return shifted_quantile(scores[speaking], np.array(here)[speaking], np.array(there), level)


def element_quantiles(calibration: Calibration, level: float) -> dict[str, float]:
    """{symbol: q_atom} of the elements that have one at a level."""
    known = np.array(sorted(calibration.q_atom))
    values = calibration.atom_quantile(known, level)
    return {chemical_symbols[z]: float(q) for z, q in zip(known, values, strict=True) if np.isfinite(q)}


def _frames(trajectory: str | Path | Sequence[Atoms], index: str) -> list[Atoms]:
    """The frames of a replica."""
    if not isinstance(trajectory, (str, Path)):
        frames = several("replica", trajectory, "a path or a list of Atoms", error=DataError)
        if not all(isinstance(atoms, Atoms) for atoms in frames):
            raise DataError(f"a replica holds {type(frames[0]).__name__}, expected a path or a list of Atoms")
        return frames
    verify(trajectory)
    check_counts(trajectory)
    try:
        frames = ase.io.read(trajectory, index)
    except Exception as error:  # each reader has errors of its own
        raise DataError(f"{trajectory} cannot be read as a trajectory: {error}") from error
    frames = frames if isinstance(frames, list) else [frames]
    if not frames:
        raise DataError(f"{trajectory} holds no frames for index {index!r}")
    for atoms in frames:
        put_back(atoms)
    return frames


def _check_interval(frames: Sequence[Atoms], interval_fs: float) -> None:
    """Refuse an interval that is not that of the frames, where they say their time."""
    times = [atoms.info["time_fs"] for atoms in frames if "time_fs" in atoms.info]
    steps = np.diff(times) if len(times) == len(frames) else np.empty(0)
    if steps.size and not np.allclose(steps[:-1], interval_fs, rtol=1e-6):
        raise LimitsError(
            f"the frames are {np.median(steps):g} fs apart by their own times, not interval_fs={interval_fs:g}"
        )


def _distances(predictor: BayesianPredictor, batch: Sequence[Atoms]) -> list[float]:
    """Largest latent distance of each structure, over the atoms that can move."""
    found = zip(predictor.latent_distances(batch), batch, strict=True)
    return [float(values[movable(atoms)].max(initial=0.0)) for values, atoms in found]


def _ratios(predictor: BayesianPredictor, ratio: HaltRatio, batch: Sequence[Atoms]) -> list[float]:
    """R of each structure of a batch."""
    found = []
    for atoms, prediction in zip(batch, predictions(predictor, batch, Need()), strict=True):
        counted = ratio(atoms.get_chemical_symbols(), prediction.atom_std)[movable(atoms)]
        if np.isnan(counted).any():
            missing = sorted(set(atoms.get_chemical_symbols()) - set(ratio.quantiles))
            raise LimitsError(
                f"{', '.join(missing) or 'an atom'} has no calibrated bound at this level; calibrate with more frames"
            )
        found.append(float(counted.max()) if counted.size else SMALLEST)
    return found
