"""Predictions from samples: mean and spread over the draws, as numpy arrays.

For draws k = 1 … K of energy E_k and forces F_k,i (Kahle and Zipoli 2022 call this the committee estimate)

    E = mean_k E_k,   Var E = Σ_k (E_k - E)² / (K - 1),   Σ_i = Σ_k (F_k,i - F_i)(F_k,i - F_i)ᵀ / (K - 1)

This spread is the epistemic part; mean-variance heads add the aleatoric part, mean_k of their variances.

``energy_var`` is the variance of the *total* energies: per-atom variances are never summed, since errors of similar
environments add coherently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from blipcalc.core.contracts import Surface
from blipcalc.core.evaluate import Samples
from blipcalc.core.graph import Graph
from blipcalc.errors import CalibrationError, NonFiniteError, ZeroVarianceError
from blipcalc.settings import number
from blipcalc.stats.spread import atom_variance, covariance, is_blank, spread

Array = np.ndarray


@dataclass(frozen=True)
class SampleArrays:
    """Samples of the draws for one structure of n atoms, as float64 arrays; None where absent.

    energy (K,) eV · forces (K, n, 3) eV/Å · stress (K, 6) eV/Å³, ASE's Voigt order · energies (K, n) eV · energy_var (K,) eV² and
    forces_cov (K, n, 3, 3) (eV/Å)² of mean-variance heads
    """

    energy: Array
    forces: Array | None = None
    stress: Array | None = None
    energies: Array | None = None
    energy_var: Array | None = None
    forces_cov: Array | None = None

    def first(self, k: int) -> SampleArrays:
        """Return the samples of the first k draws."""

        def cut(value: Array | None) -> Array | None:
            return None if value is None else value[:k]

        others = (self.forces, self.stress, self.energies, self.energy_var, self.forces_cov)
        return SampleArrays(self.energy[:k], *map(cut, others))


@dataclass(frozen=True)
class Prediction:
    """Means and variances for one structure of n atoms; float64.

    species : (n,) atomic numbers
    energy, energies : eV, () and (n,); forces : (n, 3) eV/Å; stress : (6,) eV/Å³, ASE's Voigt order
    energy_var : eV², forces_cov : (n, 3, 3) (eV/Å)², stress_var : (6,) (eV/Å³)²; total; None for a single draw without heads
    pressure_var : (eV/Å³)² of -tr σ / 3; the diagonal of a stress covariance does not give it
    energy_var_epistemic, forces_cov_epistemic : the part from the spread of the draws
    energy_var_aleatoric, forces_cov_aleatoric : the part from mean-variance heads; None without heads
    n_draws : K
    surface : the driving potential, which gives energy, forces and stress: ``mean`` or ``centre``
    calibration : the calibration applied, None for raw posterior values
    raw : the prediction before calibration, None for one without calibration
    draw_deviations : (K,) eV, energies of the draws less ``energy``; posterior values, None for a single draw
    samples : the samples, where they were requested
    """

    species: Array
    energy: float
    energies: Array | None
    forces: Array | None
    stress: Array | None
    n_draws: int
    energy_var: float | None = None
    forces_cov: Array | None = None
    stress_var: Array | None = None
    pressure_var: float | None = None
    surface: Surface = "mean"
    energy_var_aleatoric: float | None = None
    forces_cov_aleatoric: Array | None = None
    calibration: Calibration | None = None
    raw: Prediction | None = None
    samples: SampleArrays | None = None
    draw_deviations: Array | None = None

    def __repr__(self) -> str:
        kind = "calibrated" if self.calibration is not None else "raw"
        parts = [f"{len(self.species)} atoms", f"energy {self.energy:.4f}"]
        if self.energy_var is not None:
            parts[-1] += f" ± {math.sqrt(self.energy_var):.2g}"
        parts[-1] += " eV"
        if self.atom_std is not None and len(self.species):
            parts.append(f"largest atom_std {np.max(self.atom_std):.3g} eV/Å")
        return f"Prediction({', '.join(parts)}; surface {self.surface}, K = {self.n_draws}, {kind})"

    @property
    def energy_var_epistemic(self) -> float | None:
        """Epistemic part of the energy variance, eV²."""
        if self.energy_var is None or self.energy_var_aleatoric is None:
            return self.energy_var
        return self.energy_var - self.energy_var_aleatoric

    @property
    def forces_cov_epistemic(self) -> Array | None:
        """Epistemic part of the force covariances, (n, 3, 3) (eV/Å)²."""
        if self.forces_cov is None or self.forces_cov_aleatoric is None:
            return self.forces_cov
        return self.forces_cov - self.forces_cov_aleatoric

    @property
    def forces_var(self) -> Array | None:
        """Variances of the force components, (n, 3) (eV/Å)²."""
        return None if self.forces_cov is None else np.diagonal(self.forces_cov, axis1=1, axis2=2).copy()

    @property
    def atom_var(self) -> Array | None:
        """Rotation-invariant force variance tr Σ_i / 3 of each atom, (n,) (eV/Å)²."""
        return None if self.forces_cov is None else atom_variance(self.forces_cov)

    @property
    def atom_std(self) -> Array | None:
        """Root of :attr:`atom_var`, (n,) eV/Å, which monitors read."""
        return None if self.forces_cov is None else np.sqrt(atom_variance(self.forces_cov))

    @property
    def draws_agree(self) -> bool:
        """True where there are variances and all of them are exactly zero."""
        known = [v for v in (self.energy_var, self.forces_cov, self.stress_var) if v is not None]
        return bool(known) and not any(np.any(v) for v in known)

    @property
    def without_spread(self) -> str:
        """``forces`` or ``stress`` where its values are not zero but all its variances are; else an empty string."""
        of = {"forces": (self.forces, self.forces_cov), "stress": (self.stress, self.stress_var)}
        blank = [
            name for name, (values, v) in of.items() if values is not None and v is not None and is_blank(v, values)
        ]
        return blank[0] if blank else ""

    def demand_spread(self) -> None:
        """Raise :class:`ZeroVarianceError` where variances are all exactly zero, see :attr:`without_spread`."""
        if name := self.without_spread:
            raise ZeroVarianceError(
                f"the variance of all {name} is exactly zero, although they reach {np.abs(getattr(self, name)).max():.3g} "
                f"{'eV/Å' if name == 'forces' else 'eV/Å³'}: an error bar of zero says nothing. Either all {self.n_draws} draws "
                "are the same (give members or weights that differ, or use one of them without an error bar), or a calibration "
                "scales by zero"
            )

    def force_bound(self, level: float = 0.95) -> Array:
        """Return (n,) eV/Å bounds on the norm of each atom's force error that hold with the given probability: q_atom · atom_std.

        A conformal guarantee for one atom of a structure like those of the calibration; NaN for elements without a quantile.
        Raises CalibrationError without a calibration, without variances, or for a level that was not calibrated.
        """
        if self.calibration is None or self.forces_cov is None:
            raise CalibrationError("a bound on force errors takes a calibrated prediction of forces with variances")
        return self.calibration.atom_quantile(self.species, level) * self.atom_std


def sample_arrays(samples: Samples, graph: Graph) -> list[SampleArrays]:
    """Split the samples of a batch into its structures."""
    batch = graph.batch.cpu().numpy()
    parts = []
    for s in range(graph.n_structures):
        atoms = np.flatnonzero(batch == s)
        whole = samples.stress if bool(graph.pbc[s].all()) else None
        stress = None if whole is None else whole[:, s].cpu().numpy()
        parts.append(
            SampleArrays(
                energy=samples.energy[:, s].cpu().numpy(),
                forces=None if samples.forces is None else samples.forces[:, atoms].cpu().numpy(),
                stress=None if stress is None else full_3x3_to_voigt_6_stress(stress),
                energies=samples.energies[:, atoms].cpu().numpy(),
                energy_var=None if samples.energy_var is None else samples.energy_var[:, s].cpu().numpy(),
                forces_cov=None if samples.forces_cov is None else samples.forces_cov[:, atoms].cpu().numpy(),
            )
        )
    return parts


def summarize(
    species: Array, draws: SampleArrays | None, *, centre: SampleArrays | None = None, keep_samples: bool = False
) -> Prediction:
    """Reduce the samples of one structure to a prediction.

    Parameters
    ----------
    species : (n,) atomic numbers
    draws : samples of the K draws; None where no variance is requested (``centre`` is needed then)
    centre : samples of the network at the mean weights, which then gives energy, forces and stress; None: the mean over the
        draws does.  Variances are those of the draws around *their* mean in either case.
    keep_samples : keep the draws in the prediction

    Raises
    ------
    NonFiniteError : a sample is NaN or infinite
    """
    given = [samples for samples in (draws, centre) if samples is not None]
    for samples in given:
        _check_finite(samples)
    surface = given[-1]
    spreads, energy = {} if draws is None else _variances(draws), float(surface.energy.mean())
    return Prediction(
        species=np.asarray(species),
        energy=energy,
        energies=_mean(surface.energies),
        forces=_mean(surface.forces),
        stress=_mean(surface.stress),
        n_draws=0 if draws is None else len(draws.energy),
        surface="mean" if centre is None else "centre",
        samples=draws if keep_samples else None,
        draw_deviations=None if draws is None or len(draws.energy) < 2 else draws.energy - energy,
        **spreads,
    )


def _variances(draws: SampleArrays) -> dict[str, Any]:
    """Return total variances, between the draws plus the mean of their heads, and the aleatoric part from the heads.

    This is the law of total variance; a single draw with heads has only their noise.
    """
    noise: dict[str, Any] = {"energy_var": _mean(draws.energy_var), "forces_cov": None}
    if draws.forces is not None:
        noise["forces_cov"] = _mean(draws.forces_cov)
    total: dict[str, Any] = {**noise, "stress_var": None, "pressure_var": None}
    if len(draws.energy) > 1:
        total["energy_var"] = spread(draws.energy)[1] + (0.0 if noise["energy_var"] is None else noise["energy_var"])
        if draws.forces is not None:
            between = covariance(draws.forces)
            total["forces_cov"] = between if noise["forces_cov"] is None else between + noise["forces_cov"]
        if draws.stress is not None:
            total["stress_var"] = spread(draws.stress)[1]
            total["pressure_var"] = float(spread(draws.stress[:, :3].mean(axis=1))[1])
    for values in (total, noise):
        values["energy_var"] = None if values["energy_var"] is None else float(values["energy_var"])
    return total | {f"{name}_aleatoric": value for name, value in noise.items()}


def _mean(samples: Array | None) -> Array | None:
    return None if samples is None else samples.mean(axis=0)


def _check_finite(samples: SampleArrays) -> None:
    """Raise an error that names draws and atoms where samples hold NaN or infinity."""
    if not np.isfinite(samples.energy).all():
        raise NonFiniteError(
            f"energies of draws {np.flatnonzero(~np.isfinite(samples.energy)).tolist()} are not finite"
        )
    if samples.forces is not None and not np.isfinite(samples.forces).all():
        atoms = np.flatnonzero(~np.isfinite(samples.forces).all(axis=(0, 2)))
        raise NonFiniteError(
            f"forces on atoms {atoms[:10].tolist()} are not finite; are atoms too close to each other?"
        )


@dataclass(frozen=True)
class Calibration:
    """Constants that turn a posterior spread into an error bar, for one (model, surface, K, seed).

    surface, n_draws, seed, model_hash : the draws and the model that the constants belong to
    scale : {Z: factor on the force variance}, so that the mean squared z-score per component is 1 on the calibration frames
    scale_energy : the same for the energy variance
    q_atom : {Z: {level: conformal quantile of ‖force error‖ / scaled atom_std}}, for one atom
    q_frame : {level: conformal quantile of the frame's maximum of the same ratio}, for the decision to halt
    n_frames, n_atoms : number of calibration frames, and {Z: number of atoms}
    frames_hash : SHA-256 over the fingerprints of those frames
    """

    surface: Surface
    n_draws: int
    seed: int
    model_hash: str
    scale: Mapping[int, float]
    scale_energy: float
    q_atom: Mapping[int, Mapping[float, float]]
    q_frame: Mapping[float, float]
    n_frames: int
    n_atoms: Mapping[int, int]
    frames_hash: str
    n_element_frames: Mapping[int, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        elements = ", ".join(chemical_symbols[z] for z in sorted(self.scale))
        return (
            f"Calibration(surface {self.surface}, K = {self.n_draws}, seed {self.seed}; {elements}; {self.n_frames} frames; "
            f"model {self.model_hash[:12]})"
        )

    @property
    def constants(self) -> str:
        """All constants as text, equal for equal calibrations."""
        return repr(asdict(self))

    def apply(self, prediction: Prediction) -> Prediction:
        """Return the prediction with scaled variances; atoms of an element that was never calibrated get NaN."""
        if prediction.calibration is not None:
            raise CalibrationError("this prediction is calibrated already; apply a calibration to its .raw")
        if (prediction.surface, prediction.n_draws) != (self.surface, self.n_draws) and prediction.n_draws:
            raise CalibrationError(
                f"the calibration is for surface={self.surface!r}, K={self.n_draws}; the prediction has "
                f"surface={prediction.surface!r}, K={prediction.n_draws}. Calibrate for these, or use those"
            )
        if prediction.forces_cov is None and prediction.energy_var is None:
            return replace(prediction, calibration=self, raw=prediction)
        factors = self._scales(prediction.species)[:, None, None]

        def scaled(value: Any, factor: Any) -> Any:
            return None if value is None else value * factor

        return replace(
            prediction,
            energy_var=scaled(prediction.energy_var, self.scale_energy),
            energy_var_aleatoric=scaled(prediction.energy_var_aleatoric, self.scale_energy),
            forces_cov=scaled(prediction.forces_cov, factors),
            forces_cov_aleatoric=scaled(prediction.forces_cov_aleatoric, factors),
            calibration=self,
            raw=prediction,
        )

    def halt_limit(self, tolerance: float, level: float = 0.95) -> float:
        """Return the largest ``atom_std`` (eV/Å) without a halt: q_frame · max atom_std ≤ tolerance (eV/Å, a norm)."""
        self._check_level(level, self.q_frame, "frame")
        return tolerance / self.q_frame[level]

    def calibration_factor(self, numbers: Iterable[int], of: Literal["energy", "forces"]) -> float:
        """Return the calibration factor c on the spread of derived quantities; NaN with an element that was never calibrated.

        of : total ``energy``, or quantities that ``forces`` determine, averaged over atoms: structures, curvatures, differences
            of
        energies
        """
        if of == "energy":
            return float(np.sqrt(self.scale_energy))
        return float(np.sqrt(self._scales(numbers).mean()))

    def _scales(self, numbers: Iterable[int]) -> Array:
        """Return (n,) factors on the force variances of atoms, NaN for an element that was never calibrated."""
        return np.array([self.scale.get(int(z), np.nan) for z in numbers])

    def atom_quantile(self, species: Array, level: float = 0.95) -> Array:
        """Return (n,) q_atom of each atom, NaN for an element without one; raises CalibrationError for an unknown level."""
        self._check_level(level, {known for q in self.q_atom.values() for known in q}, "atom")
        of = {z: q.get(level, np.nan) for z, q in self.q_atom.items()}
        return np.array([of.get(int(z), np.nan) for z in species])

    @staticmethod
    def _check_level(level: float, known: Iterable[float], of: str) -> None:
        if number("level", level, error=CalibrationError) not in known:
            levels = ", ".join(f"{value:g}" for value in sorted(known))
            raise CalibrationError(f"no {of} quantile for level {level:g}; calibrated levels: {levels or 'none'}")

    def uncalibrated(self, species: Array) -> list[str]:
        """Return the symbols of the elements of a structure that were never calibrated."""
        return [chemical_symbols[z] for z in sorted({int(z) for z in species} - set(self.scale))]
