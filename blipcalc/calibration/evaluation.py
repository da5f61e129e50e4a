"""Evaluation of predictions and error bars on labelled frames, with sampling limits of the figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict, Unpack

import numpy as np
from ase import Atoms

from blipcalc.calibration.accuracy import Scores, energy_scores, force_scores, or_nan, zms_bootstrap
from blipcalc.calibration.coverage import Coverage, frame_coverage, radius
from blipcalc.calibration.fit import LEVELS
from blipcalc.calibration.residuals import BATCH_ATOMS, Progress, Residuals, collect, frames_hash, seen_in_training
from blipcalc.core.contracts import Surface
from blipcalc.core.predictor_contract import Predictor
from blipcalc.errors import DataError
from blipcalc.files.json_file import Kind
from blipcalc.stats.bootstrap import effective_sample_size
from blipcalc.stats.conformal import frame_maximum
from blipcalc.stats.ranks import auroc
from blipcalc.stats.scores import mae, rmse, zms

Array = np.ndarray
NAN = float("nan")
#: kind of file
EVALUATION = Kind("evaluation", "make it anew with 'blipcalc evaluate'")
#: fraction of largest errors that ``auroc_error`` detects by default
LARGEST = 0.05


@dataclass(frozen=True)
class CompositionErrors:
    """Errors of the frames of one formula: energy_mae and energy_mae_per_atom in eV, forces in eV/Å per component."""

    formula: str
    n_frames: int
    energy_mae: float
    energy_mae_per_atom: float
    forces_mae: float
    forces_rmse: float
    forces_zms: float


@dataclass(frozen=True)
class Foreign:
    """Error bars on out-of-distribution structures.

    auroc : probability that the largest atom_std of an out-of-distribution frame exceeds that of a test frame
    forces_mae (eV/Å), forces_zms, forces_zms_interval : over its labelled frames; NaN where there are none
    n_left_out : number of frames with an uncalibrated element; a monitor halts on them anyway, and ``auroc`` leaves them out
    """

    n_frames: int
    n_labelled: int
    auroc: float
    forces_mae: float
    forces_zms: float
    forces_zms_interval: tuple[float, float]
    n_left_out: int


@dataclass(frozen=True)
class Evaluation:
    """Figures of one predictor on one labelled set.

    energy : of total energies, eV; energy_mae_per_atom, energy_rmse_per_atom : eV
    energy_mae_shifted, energy_rmse_shifted : eV, of total energies less the mean error of each formula on these frames, which
        leaves errors of the shape of the surface.  Some published figures are of this kind
    forces : per component, eV/Å
    frames : coverage of whole frames by q_frame; empty without a calibration
    compositions : errors by formula
    auroc_error : of atom_std for atoms with ‖force error‖ > tolerance (eV/Å)
    n_effective : effective number of independent points in the coverage of atoms at 0.95 (design effect); NaN where constant
    n_uncalibrated : number of atoms without a variance, of uncalibrated elements; 0 without a calibration
    n_calibration : frames of the calibration; is_calibration_set : whether these are the same frames, so that coverage proves
        nothing
    n_seen_in_training : number of training frames among these; None where unknown
    """

    surface: Surface
    n_draws: int
    n_frames: int
    n_atoms: int
    energy: Scores
    energy_mae_per_atom: float
    energy_rmse_per_atom: float
    energy_mae_shifted: float
    energy_rmse_shifted: float
    forces: Scores
    frames: tuple[Coverage, ...]
    compositions: tuple[CompositionErrors, ...]
    tolerance: float
    auroc_error: float
    n_effective: float
    n_uncalibrated: int
    n_calibration: int | None
    is_calibration_set: bool = False
    n_seen_in_training: int | None = None
    foreign: Foreign | None = None

    @property
    def has_variances(self) -> bool:
        """Whether there are variances of forces to score, or, where all forces are silent, variances of energies."""
        return not np.isnan(self.forces.nll) or bool(self.forces.n_silent and not np.isnan(self.energy.nll))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values for JSON; NaN and infinity become None."""
        return _plain(asdict(self))


class Scoring(TypedDict, total=False):
    """Settings of :func:`evaluate_residuals`."""

    tolerance: float | None
    levels: Sequence[float]
    seed: int


def evaluate(
    predictor: Predictor,
    frames: Sequence[Atoms],
    *,
    residuals: Residuals | None = None,
    foreign: Sequence[Atoms] | None = None,
    training_frames: Iterable[int] | None = None,
    batch_size: int = BATCH_ATOMS,
    progress: Progress | None = None,
    **settings: Unpack[Scoring],
) -> Evaluation:
    """Evaluate a predictor on labelled frames; takes the settings of :func:`evaluate_residuals`.

    residuals : of this predictor on these frames, where known already (plots use them too); None computes them
    foreign : out-of-distribution structures, with labels or without
    training_frames : fingerprints of the training frames (``model.frames.tolist()``), to count test frames among them
    raises : MissingLabelsError, NonFiniteLabelsError, DataError, StructureError
    """
    if residuals is None:
        residuals = collect(predictor, frames, batch_size=batch_size, progress=progress)
    elif residuals.n_frames != len(frames):
        raise DataError(
            f"expected frames for residuals of {residuals.n_frames} frames, got {len(frames)}; give those they are of"
        )
    outside = None if foreign is None else collect(predictor, foreign, batch_size=batch_size, require_labels=False)
    used = residuals.calibration
    return replace(
        evaluate_residuals(residuals, foreign=outside, **settings),
        is_calibration_set=used is not None and used.frames_hash == frames_hash(frames),
        n_seen_in_training=None if training_frames is None else len(seen_in_training(frames, training_frames)),
    )


def evaluate_residuals(
    residuals: Residuals,
    *,
    foreign: Residuals | None = None,
    tolerance: float | None = None,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> Evaluation:
    """Compute every figure of an :class:`Evaluation` from residuals.

    residuals : labelled, raw or calibrated; foreign : of out-of-distribution structures, errors NaN where unlabelled
    tolerance : eV/Å, a norm; None takes the limit of the largest 5 % of the errors
    levels : of the coverage; seed : of bootstraps and ceilings
    """
    energy_per_atom = residuals.energy_error / residuals.n_atoms
    speaking = ~residuals.silent_atoms
    force_norm, atom_std = residuals.force_norm[speaking], residuals.atom_std[speaking]
    if tolerance is None:
        tolerance = float(np.quantile(force_norm, 1 - LARGEST)) if force_norm.size else NAN
    calibration = residuals.calibration
    return Evaluation(
        surface=residuals.surface,
        n_draws=residuals.n_draws,
        n_frames=residuals.n_frames,
        n_atoms=len(residuals.species),
        energy=energy_scores(residuals, levels, seed),
        energy_mae_per_atom=mae(energy_per_atom),
        energy_rmse_per_atom=rmse(energy_per_atom),
        energy_mae_shifted=mae(_shifted(residuals)),
        energy_rmse_shifted=rmse(_shifted(residuals)),
        forces=force_scores(residuals, levels, seed),
        frames=frame_coverage(residuals, levels),
        compositions=tuple(_composition(residuals, formula) for formula in np.unique(residuals.compositions).tolist()),
        tolerance=tolerance,
        auroc_error=_auroc(atom_std, force_norm > tolerance),
        n_effective=_n_effective(residuals, seed),
        n_uncalibrated=_n_uncalibrated(residuals, residuals.atom_std),
        n_calibration=None if calibration is None else calibration.n_frames,
        foreign=None if foreign is None else _foreign(residuals, foreign, seed),
    )


def _shifted(residuals: Residuals) -> Array:
    """Return (S,) errors of energies less the mean of their formula, eV."""
    _, code, counts = np.unique(residuals.compositions, return_inverse=True, return_counts=True)
    means = np.bincount(code, weights=residuals.energy_error) / counts
    return residuals.energy_error - means[code]


def _composition(residuals: Residuals, formula: str) -> CompositionErrors:
    frames = residuals.compositions == formula
    atoms = frames[residuals.frame]
    energy, forces, variance = residuals.energy_error[frames], residuals.force_error[atoms], residuals.forces_var[atoms]
    known = residuals.scored[atoms]
    return CompositionErrors(
        formula=formula,
        n_frames=int(frames.sum()),
        energy_mae=mae(energy),
        energy_mae_per_atom=mae(energy / residuals.n_atoms[frames]),
        forces_mae=mae(forces),
        forces_rmse=rmse(forces),
        forces_zms=or_nan(lambda: zms(forces[known], variance[known]), known),
    )


def _foreign(residuals: Residuals, foreign: Residuals, seed: int) -> Foreign:
    inside, outside = (frame_maximum(r.atom_std, r.frame) for r in (residuals, foreign))
    score, is_outside = np.concatenate([inside, outside]), np.repeat([False, True], [len(inside), len(outside)])
    labelled, known = np.isfinite(foreign.force_error).all(axis=1), foreign.scored
    error, variance = foreign.force_error[known], foreign.forces_var[known]
    of_frame = np.broadcast_to(foreign.frame[:, None], known.shape)[known]
    return Foreign(
        n_frames=foreign.n_frames,
        n_labelled=int(np.isfinite(foreign.energy_error).sum()),
        auroc=_auroc(score, is_outside),
        forces_mae=or_nan(lambda: mae(foreign.force_error[labelled]), labelled),
        forces_zms=or_nan(lambda: zms(error, variance), known),
        forces_zms_interval=zms_bootstrap(error, variance, of_frame, seed),
        n_left_out=_n_uncalibrated(foreign, outside),
    )


def _n_uncalibrated(residuals: Residuals, std: Array) -> int:
    """Return the number of entries that a calibration made NaN; a single draw has none either, but not by calibration."""
    return 0 if residuals.calibration is None else int(np.isnan(std).sum())


def _n_effective(residuals: Residuals, seed: int) -> float:
    limit, ratio = radius(residuals, 0.95), residuals.ratio
    known = ~(np.isnan(ratio) | np.isnan(limit))
    if len(np.unique(residuals.frame[known])) < 2:
        return NAN
    covered = (ratio <= limit)[known]
    return effective_sample_size(covered, residuals.frame[known], np.random.default_rng(seed))


def _auroc(score: Array, positive: Array) -> float:
    """Return the AUROC over finite scores; NaN where one side is empty."""
    finite = np.isfinite(score)
    low, high = score[finite & ~positive], score[finite & positive]
    return auroc(low, high) if low.size and high.size else NAN


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
