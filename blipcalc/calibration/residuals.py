"""Residuals: errors of predictions against labels with their variances, the input of calibration and evaluation.

A force that vanishes by symmetry (an isolated atom, a perfect crystal, across a mirror plane) has neither an error nor a spread
with any model.  Such components are ``silent``: they carry no information on error bars and are left out of their figures.
An error without a spread, in contrast, is a fault of the error bars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.symbols import Symbols

from blipcalc.core.contracts import Surface
from blipcalc.core.prediction import Calibration, Prediction
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.data.labels import frame_hash, labels
from blipcalc.data.silent_forces import ROUNDING
from blipcalc.errors import CalibrationError, DataError, MissingLabelsError, NonFiniteLabelsError
from blipcalc.stats.conformal import frame_maximum
from blipcalc.stats.spread import atom_variance

Array = np.ndarray
#: callback of (frames done, frames in all)
Progress = Callable[[int, int], None]

#: atoms in a batch: no slower than 400 on a CPU, and K = 32 draws of the reference PaiNN take 3.6 GB in float64
BATCH_ATOMS = 100


@dataclass(frozen=True)
class Residuals:
    """Errors and variances over the N atoms of S frames; an error is the label minus the mean.

    frame : (N,) frame of each atom, 0 … S-1; species : (N,) atomic numbers
    force_error : (N, 3) eV/Å; NaN where the frame has no labels
    forces_cov : (N, 3, 3) (eV/Å)²; NaN where there is none: a point prediction, an element that was never calibrated
    energy_error, energy_var : (S,) eV and eV², of total energies; NaN as above
    surface, n_draws : of the predictions
    calibration : applied to the variances already; None for posterior values
    """

    frame: Array
    species: Array
    force_error: Array
    forces_cov: Array
    energy_error: Array
    energy_var: Array
    surface: Surface = "mean"
    n_draws: int = 0
    calibration: Calibration | None = None

    @property
    def n_frames(self) -> int:
        """Number of frames S."""
        return len(self.energy_error)

    @property
    def n_atoms(self) -> Array:
        """Number of atoms of each frame, (S,)."""
        return np.bincount(self.frame, minlength=self.n_frames)

    @property
    def elements(self) -> list[int]:
        """Sorted atomic numbers that occur."""
        return sorted({int(z) for z in self.species})

    @property
    def compositions(self) -> Array:
        """Chemical formula of each frame, (S,), Hill order."""
        order = np.argsort(self.frame, kind="stable")
        parts = np.split(self.species[order], np.cumsum(self.n_atoms)[:-1])
        known = {part.tobytes(): Symbols(np.sort(part)).get_chemical_formula() for part in parts}
        return np.array([known[part.tobytes()] for part in parts])

    @property
    def forces_var(self) -> Array:
        """Variances of the force components, (N, 3) (eV/Å)²."""
        return np.diagonal(self.forces_cov, axis1=1, axis2=2)

    @property
    def atom_std(self) -> Array:
        """Root of tr Σ_i / 3, (N,) eV/Å."""
        return np.sqrt(atom_variance(self.forces_cov))

    @property
    def force_norm(self) -> Array:
        """Norm of the force errors, (N,) eV/Å."""
        return np.linalg.norm(self.force_error, axis=1)

    @property
    def ratio(self) -> Array:
        """Conformal score ‖force error‖ / atom_std, (N,): infinite for an error without a spread, NaN where unknown or silent."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.force_norm / self.atom_std
        return np.where(self.silent_atoms, np.nan, ratio)

    @property
    def frame_ratio(self) -> Array:
        """Largest ratio of each frame over its atoms that are not silent, (S,); NaN where one is unknown, or all are silent."""
        worst = frame_maximum(np.where(self.silent_atoms, -np.inf, self.ratio), self.frame)
        return np.where(np.isneginf(worst), np.nan, worst)

    @property
    def silent(self) -> Array:
        """Mask (N, 3) of components that vanish by symmetry: neither an error nor a posterior spread beyond rounding."""
        return _flat(self._raw_forces_var) & (np.abs(self.force_error) <= ROUNDING)

    @property
    def silent_atoms(self) -> Array:
        """Mask (N,) of atoms with silent components only."""
        return np.asarray(self.silent.all(axis=1))

    @property
    def silent_energy(self) -> Array:
        """Mask (S,) of frames whose energy has neither an error nor a posterior spread beyond rounding."""
        return _flat(self._raw_energy_var) & (np.abs(self.energy_error) <= ROUNDING)

    @property
    def spreadless(self) -> Array:
        """Mask (N, 3) of components with an error but no posterior spread beyond rounding, which no factor can correct."""
        return _flat(self._raw_forces_var) & (np.abs(self.force_error) > ROUNDING)

    @property
    def spreadless_energy(self) -> Array:
        """Mask (S,) of energies with an error but no posterior spread beyond rounding."""
        return _flat(self._raw_energy_var) & (np.abs(self.energy_error) > ROUNDING)

    @property
    def scored(self) -> Array:
        """Mask (N, 3) of components with an error and a spread."""
        known = np.isfinite(self.force_error) & np.isfinite(self.forces_var) & (self.forces_var > 0)
        return known & ~self.silent & ~self.spreadless

    @property
    def scored_energy(self) -> Array:
        """Mask (S,) of energies with an error and a spread."""
        known = np.isfinite(self.energy_error) & np.isfinite(self.energy_var) & (self.energy_var > 0)
        return known & ~self.silent_energy & ~self.spreadless_energy

    @property
    def _raw_forces_var(self) -> Array:
        return self.forces_var / self._scale[:, None]

    @property
    def _raw_energy_var(self) -> Array:
        return self.energy_var / (1.0 if self.calibration is None else self.calibration.scale_energy)

    @property
    def _scale(self) -> Array:
        """Factor applied to the variances already, (N,); NaN for an element that was never calibrated."""
        if self.calibration is None:
            return np.ones(len(self.species))
        elements, code = np.unique(self.species, return_inverse=True)
        return np.array([self.calibration.scale.get(int(z), np.nan) for z in elements])[code]

    def apply(self, calibration: Calibration) -> Residuals:
        """Return the residuals with calibrated variances; atoms of an element that was never calibrated get NaN.

        raises : CalibrationError for calibrated residuals, or for another surface or K
        """
        if self.calibration is not None:
            raise CalibrationError("these residuals are calibrated already; collect them with raw=True")
        if (self.surface, self.n_draws) != (calibration.surface, calibration.n_draws):
            raise CalibrationError(
                f"the calibration is for surface={calibration.surface!r}, K={calibration.n_draws}; the residuals have "
                f"surface={self.surface!r}, K={self.n_draws}"
            )
        calibrated = replace(self, calibration=calibration)
        return replace(
            calibrated,
            forces_cov=self.forces_cov * calibrated._scale[:, None, None],
            energy_var=self.energy_var * calibration.scale_energy,
        )


def collect(
    predictor: Predictor,
    frames: Sequence[Atoms],
    *,
    batch_size: int = BATCH_ATOMS,
    raw: bool = False,
    require_labels: bool = True,
    progress: Progress | None = None,
) -> Residuals:
    """Return the residuals of a predictor on labelled frames, evaluated in batches of at most ``batch_size`` atoms.

    raw : whether to take the posterior's own variances even from a calibrated predictor, as a fit needs
    require_labels : False gives frames without labels NaN for errors
    progress : called with (frames done, frames in all)
    raises : MissingLabelsError, NonFiniteLabelsError, DataError for unusable labels or no frames; StructureError
    """
    check_frames(frames, require_labels=require_labels)
    predictions, done = [], 0
    for batch in batches(frames, batch_size):
        found = predictor(batch, Need(forces=True, variance=True))
        predictions += [p.raw if raw and p.raw is not None else p for p in found]
        done += len(batch)
        if progress is not None:
            progress(done, len(frames))
    return residuals_of(predictions, frames)


def residuals_of(predictions: Sequence[Prediction], frames: Sequence[Atoms]) -> Residuals:
    """Return the residuals of predictions, one for each frame; missing labels become NaN.

    raises : ZeroVarianceError for variances that are all exactly zero
    """
    for prediction in predictions:
        prediction.demand_spread()
    energies, forces = zip(*(_labels_or_nan(atoms) for atoms in frames), strict=True)
    sizes = [len(atoms) for atoms in frames]
    first = predictions[0]
    return Residuals(
        frame=np.repeat(np.arange(len(frames)), sizes),
        species=np.concatenate([p.species for p in predictions]),
        force_error=np.concatenate(forces) - np.concatenate([p.forces for p in predictions]),
        forces_cov=np.concatenate([_or_nan(p.forces_cov, (len(p.species), 3, 3)) for p in predictions]),
        energy_error=np.array(energies) - np.array([p.energy for p in predictions]),
        energy_var=np.array([_or_nan(p.energy_var, ()) for p in predictions]),
        surface=first.surface,
        n_draws=first.n_draws,
        calibration=first.calibration,
    )


def batches(frames: Sequence[Atoms], batch_size: int) -> Iterator[list[Atoms]]:
    """Yield consecutive frames of at most ``batch_size`` atoms together; a larger frame is a batch of its own."""
    batch: list[Atoms] = []
    for atoms in frames:
        if batch and sum(map(len, batch)) + len(atoms) > batch_size:
            yield batch
            batch = []
        batch.append(atoms)
    if batch:
        yield batch


def check_frames(frames: Sequence[Atoms], *, require_labels: bool = True) -> None:
    """Raise an error for no frames, and for missing, misshapen or non-finite labels, with the first such frame."""
    if not len(frames):
        raise DataError("expected at least one frame, got none")
    for i, atoms in enumerate(frames):
        try:
            energy, forces = labels(atoms)
        except MissingLabelsError as error:
            if not require_labels:
                continue
            raise MissingLabelsError(f"frame {i}: {error}") from None
        if forces.shape != (len(atoms), 3):
            raise DataError(f"frame {i}: forces of shape {forces.shape}, expected ({len(atoms)}, 3)")
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise NonFiniteLabelsError(f"frame {i}: labels hold NaN or infinity; remove or relabel it")


def seen_in_training(frames: Sequence[Atoms], fingerprints: Iterable[int]) -> list[int]:
    """Return the indices of the frames whose fingerprint is among those of the training frames (``model.frames.tolist()``)."""
    known = set(fingerprints)
    return [i for i, atoms in enumerate(frames) if frame_hash(atoms) in known]


def frames_hash(frames: Sequence[Atoms]) -> str:
    """Return SHA-256 over the sorted fingerprints of a set of frames, for any order."""
    fingerprints = np.sort(np.array([frame_hash(atoms) for atoms in frames], dtype="<i8"))
    return hashlib.sha256(fingerprints.tobytes()).hexdigest()


def silence_text(residuals: Residuals) -> str:
    """Return a sentence on the number of silent values; empty where there are none."""
    silent, frames = residuals.silent, residuals.frame[residuals.silent_atoms]
    if not silent.any():
        return ""
    whole = np.setdiff1d(frames, residuals.frame[~residuals.silent_atoms]).size
    return (
        f"{np.count_nonzero(silent)} of {silent.size} force components, {np.count_nonzero(residuals.silent_atoms)} whole atoms "
        f"and {whole} whole frames among them, vanish by symmetry: without error and spread they say nothing of error bars, "
        "and are left out"
    )


def _flat(variance: Array) -> Array:
    """Return the mask of variances no larger than rounding."""
    return variance <= ROUNDING**2


def _labels_or_nan(atoms: Atoms) -> tuple[float, Array]:
    """Return energy and forces; NaN for both where one is missing."""
    try:
        return labels(atoms)
    except MissingLabelsError:
        return float("nan"), np.full((len(atoms), 3), np.nan)


def _or_nan(value: Array | float | None, shape: tuple[int, ...]) -> Array:
    return np.full(shape, np.nan) if value is None else np.asarray(value, dtype=np.float64)
