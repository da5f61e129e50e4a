"""Comparison of models on one labelled set: accuracy, calibration errors before and after recalibration, and cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from blipcalc.calibration.evaluation import Evaluation, evaluate_residuals
from blipcalc.calibration.residuals import Residuals, collect, seen_in_training
from blipcalc.errors import UnknownElementError
from blipcalc.files.json_file import Kind
from blipcalc.model_file.model import Model, backbone_of, total_seconds
from blipcalc.posteriors.stored import feasible_draws
from blipcalc.predictor import BayesianPredictor, Computing
from blipcalc.stats.recalibration import IsotonicRecalibration
from blipcalc.stats.scores import ce_central

Array = np.ndarray
NAN = float("nan")
#: kind of file
COMPARISON = Kind("comparison of models", "make it anew with 'blipcalc compare'")


class CalibrationErrors(NamedTuple):
    """Calibration errors :func:`~blipcalc.stats.scores.ce_central` of one quantity, 0 to 1/3; NaN without variances.

    posterior : of the posterior's own variances; calibrated : with the constants of the model file
    isotonic : of the posterior's variances after a monotone map, fitted to every other frame; on the frames in between
    """

    posterior: float
    calibrated: float
    isotonic: float


@dataclass(frozen=True)
class Compared:
    """Figures of one model on the set.

    minutes : wall time of its training and of that of its starting model, by its own record
    ms_per_frame : CPU time of a prediction with forces and variances
    evaluation : under its calibration where it has one for these settings
    energy_ce, forces_ce : calibration errors of total energies and force components
    n_seen_in_training : frames of the set that the model was trained on
    residuals, posterior_residuals : with the calibration where there is one, and with the posterior's own variances
    knows_foreign : False where out-of-distribution frames have elements unknown to it, so that figures on them are absent
    """

    name: str
    posterior: str
    architecture: str
    minutes: float
    ms_per_frame: float
    evaluation: Evaluation
    energy_ce: CalibrationErrors
    forces_ce: CalibrationErrors
    n_seen_in_training: int
    knows_foreign: bool
    residuals: Residuals
    posterior_residuals: Residuals

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values for JSON; NaN becomes None."""
        errors = {"energy_ce": self.energy_ce, "forces_ce": self.forces_ce}
        plain = {name: [None if np.isnan(x) else float(x) for x in values] for name, values in errors.items()}
        return self.evaluation.to_dict() | plain | {"n_seen_in_training": self.n_seen_in_training}


def compare_models(
    models: Mapping[str, Model],
    frames: Sequence[Atoms],
    *,
    foreign: Sequence[Atoms] | None = None,
    n_draws: int = 16,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **settings: Unpack[Computing],
) -> list[Compared]:
    """Evaluate every model on the same labelled frames, with its recommended surface and K draws, or as many as it has.

    foreign : out-of-distribution structures, with labels or without; progress : called with the name of each model
    settings : ``device``, ``dtype``, ``strategy``, ``chunk``
    raises : UnknownElementError where a model does not know an element of the set; DataError, StructureError or subclasses
    """
    for name, model in models.items():
        if unknown := _unknown(model, frames):
            raise UnknownElementError(
                f"{name} does not know {', '.join(unknown)}, which frames of the set hold; leave it out, or those frames"
            )
    compared = []
    for name, model in models.items():
        if progress is not None:
            progress(name)
        k = feasible_draws(model.posterior, n_draws)
        predictor = BayesianPredictor.load(model, n_draws=k, seed=seed, calibrated=False, **settings)
        began = time.process_time()
        raw = collect(predictor, frames)
        seconds = time.process_time() - began
        knows_foreign = foreign is None or not _unknown(model, foreign)
        outside = collect(predictor, foreign, require_labels=False) if foreign and knows_foreign else None
        constants = model.calibration(raw.surface, k, seed)
        seconds_trained = total_seconds(model)
        used = raw if constants is None else raw.apply(constants)
        of_atom = np.repeat(raw.frame[:, None], 3, axis=1)
        if outside is not None and constants is not None:
            outside = outside.apply(constants)
        compared.append(
            Compared(
                name=name,
                posterior=model.posterior.name,
                architecture=type(backbone_of(model.network)).__name__,
                minutes=NAN if seconds_trained is None else seconds_trained / 60,
                ms_per_frame=1e3 * seconds / len(frames),
                evaluation=evaluate_residuals(used, foreign=outside),
                energy_ce=_errors(raw, used, "energy", raw.scored_energy, np.arange(raw.n_frames)),
                forces_ce=_errors(raw, used, "force", raw.scored, of_atom),
                knows_foreign=knows_foreign,
                n_seen_in_training=len(seen_in_training(frames, model.frames.tolist())),
                residuals=used,
                posterior_residuals=raw,
            )
        )
    return compared


def _unknown(model: Model, frames: Sequence[Atoms]) -> list[str]:
    """Return the symbols of the elements of frames that a model does not know."""
    held = {int(z) for atoms in frames for z in np.unique(atoms.numbers)}
    return [chemical_symbols[z] for z in sorted(held - set(model.network.species))]


def _errors(
    raw: Residuals, used: Residuals, of: Literal["energy", "force"], known: Array, frame: Array
) -> CalibrationErrors:
    """Return calibration errors of energies or force components; known : mask of the scored ones; frame : of each error."""
    if of == "energy":
        error, variance, scaled = raw.energy_error, raw.energy_var, used.energy_var
    else:
        error, variance, scaled = raw.force_error, raw.forces_var, used.forces_var
    fit, test = (known & (frame % 2 == parity) for parity in (0, 1))
    if not (fit.any() and test.any()):
        return CalibrationErrors(NAN, NAN, NAN)
    good = known & np.isfinite(scaled)
    isotonic = IsotonicRecalibration.fit(error[fit], variance[fit])
    return CalibrationErrors(
        ce_central(error[known], variance[known]),
        ce_central(error[good], scaled[good]) if used.calibration is not None and good.any() else NAN,
        isotonic.ce(error[test], variance[test]),
    )
