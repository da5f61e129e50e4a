"""Residuals with known answers: heteroscedastic Gaussian errors of which the posterior reports a wrong variance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from blipcalc.calibration.fit import fit_calibration
from blipcalc.calibration.residuals import Residuals
from blipcalc.core.prediction import Calibration

IDENTITY = {"surface": "mean", "n_draws": 16, "seed": 0, "model_hash": "m", "frames_hash": "f"}
MOLECULE = (6, 6, 8, 1, 1, 1, 1, 1, 1)


def make_residuals(
    rng: np.random.Generator,
    n_frames: int,
    species: tuple[int, ...] = MOLECULE,
    *,
    scale: Mapping[int, float] | None = None,
    scale_energy: float = 3.0,
    frame_sd: float = 0.0,
    spread_sd: float = 0.5,
) -> Residuals:
    """Errors of variance ``scale[Z]`` times the reported one, which is log-normal with log-sd ``spread_sd`` per atom.

    frame_sd : log-sd of a factor on all errors of a frame that no variance reports
    """
    scale = scale or {}
    numbers = np.tile(species, n_frames)
    frame = np.repeat(np.arange(n_frames), len(species))
    sigma = 0.05 * np.exp(spread_sd * rng.standard_normal(len(numbers)))
    factor = np.sqrt([scale.get(int(z), 1.0) for z in numbers])
    factor = factor * np.exp(frame_sd * rng.standard_normal(n_frames))[frame]
    energy_sigma = 0.1 * np.exp(spread_sd * rng.standard_normal(n_frames))
    return Residuals(
        frame=frame,
        species=numbers,
        force_error=(factor * sigma)[:, None] * rng.standard_normal((len(numbers), 3)),
        forces_cov=sigma[:, None, None] ** 2 * np.eye(3),
        energy_error=np.sqrt(scale_energy) * energy_sigma * rng.standard_normal(n_frames),
        energy_var=energy_sigma**2,
        surface="mean",
        n_draws=16,
    )


def join(*parts: Residuals) -> Residuals:
    """Several sets as one."""
    starts = np.cumsum([0, *(part.n_frames for part in parts)])
    columns = ("species", "force_error", "forces_cov", "energy_error", "energy_var")
    return Residuals(
        frame=np.concatenate([part.frame + start for part, start in zip(parts, starts, strict=False)]),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns},
        surface=parts[0].surface,
        n_draws=parts[0].n_draws,
    )


def fit(found: Residuals, **settings: object) -> Calibration:
    """A calibration of residuals, with a made-up identity."""
    return fit_calibration(found, **IDENTITY, **settings)


@pytest.fixture(scope="session")
def residuals():
    """(rng, n_frames, species, **settings) -> residuals."""
    return make_residuals


@pytest.fixture(scope="session")
def joined():
    """(*residuals) -> one set."""
    return join


@pytest.fixture(scope="session")
def fitted():
    """(residuals, **settings) -> a calibration."""
    return fit


def make_silent(
    n_frames: int, species: tuple[int, ...] = (6,), *, error: float = 1e-16, spread: float = 1e-15
) -> Residuals:
    """Frames whose forces vanish by symmetry, up to rounding; energies have errors and spreads as others do."""
    n, rng = n_frames * len(species), np.random.default_rng(99)
    return Residuals(
        frame=np.repeat(np.arange(n_frames), len(species)),
        species=np.tile(species, n_frames),
        force_error=np.full((n, 3), error),
        forces_cov=np.tile(spread**2 * np.eye(3), (n, 1, 1)),
        energy_error=0.1 * rng.standard_normal(n_frames),
        energy_var=np.full(n_frames, 0.01),
        surface="mean",
        n_draws=16,
    )


@pytest.fixture(scope="session")
def silent():
    """(n_frames, species, **settings) -> residuals without information on forces."""
    return make_silent
