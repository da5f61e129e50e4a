"""A trained model: network, posterior, calibrations and metadata."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from blipcalc.core.contracts import HasSlots, Network, Surface
from blipcalc.core.domain import Domain
from blipcalc.core.prediction import Calibration
from blipcalc.errors import CalibrationError
from blipcalc.files.safetensors_file import tensors_hash
from blipcalc.models.build import model_name
from blipcalc.posteriors.stored import StoredPosterior


@dataclass(frozen=True)
class Loaded:
    """A model file as it was when read.

    path : of the file; seal : SHA-256 of its bytes; content : the model in it
    """

    path: Path
    seal: str
    content: Model


@dataclass(frozen=True)
class Model:
    """A trained model: network, posterior, calibrations and provenance.

    network : an EnergyModel; posterior : gives its draws
    surface : recommended driving potential, ``mean`` or ``centre``
    calibrations : one for each calibrated (surface, K, seed)
    training : command, settings, data hash, seed, wall time, machine, versions
    frames : (n,) int64 fingerprints of the frames it was trained on
    domain : of those frames, for a monitor without variances; no part of the hash
    loaded : the file that the model was read from, as it was then, or None
    """

    network: Network
    posterior: StoredPosterior
    surface: Surface = "mean"
    calibrations: tuple[Calibration, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    frames: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    domain: Domain | None = None
    loaded: Loaded | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        elements = ", ".join(chemical_symbols[z] for z in self.network.species)
        known = ", ".join(f"({c.surface}, K = {c.n_draws}, seed {c.seed})" for c in self.calibrations) or "none"
        return (
            f"Model({type(backbone_of(self.network)).__name__}, posterior {self.posterior.name}; {elements}; surface "
            f"{self.surface}; calibrations: {known})"
        )

    def __post_init__(self) -> None:
        if self.calibrations:
            own = self.hash
            foreign = [c.model_hash for c in self.calibrations if c.model_hash != own]
            if foreign:
                raise CalibrationError(
                    f"the calibration belongs to model {foreign[0][:12]}…, this one is {own[:12]}…: other weights, or another "
                    "mode of its noise. Calibrate this model in the mode that it is used in"
                )

    @property
    def hash(self) -> str:
        """SHA-256 over weights, architecture and posterior, which calibrations belong to."""
        identity = {
            "tensors": tensors_hash(tensors_of(self)),
            "species": list(self.network.species),
            "cutoff": self.network.cutoff,
            # without defaults, so that a setting added later does not change the hash of older files
            **architecture_of(self, exclude_defaults=True),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def calibration(self, surface: Surface, n_draws: int, seed: int) -> Calibration | None:
        """Return the calibration for these settings, or None."""
        wanted = (surface, n_draws, seed)
        return next((c for c in self.calibrations if (c.surface, c.n_draws, c.seed) == wanted), None)

    def with_calibrations(self, *new: Calibration) -> Model:
        """Return the model with calibrations added, each replacing an older one of its (surface, K, seed)."""
        keys = {(c.surface, c.n_draws, c.seed) for c in new}
        kept = tuple(c for c in self.calibrations if (c.surface, c.n_draws, c.seed) not in keys)
        return replace(self, calibrations=kept + new)


def total_seconds(model: Model) -> float | None:
    """Return the wall time of the training and of that of the starting model, seconds; None where the file does not say."""
    own = model.training.get("wall_seconds")
    return None if own is None else own + (model.training.get("wall_seconds_before") or 0)


def backbone_of(network: Network) -> Network:
    """Return the network without weight noise; a network without noise is returned unchanged."""
    return network.backbone if isinstance(network, HasSlots) else network


def architecture_of(model: Model, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """Return the manifest entries that determine network and posterior."""
    backbone, of_noise = backbone_of(model.network), None
    if isinstance(model.network, HasSlots):
        of_noise = model.network.config.model_dump(mode="json", exclude_defaults=exclude_defaults)
    return {
        "architecture": model_name(backbone),
        "architecture_config": backbone.config.model_dump(mode="json", exclude_defaults=exclude_defaults),
        "posterior": model.posterior.name,
        "posterior_config": of_noise,
    }


def tensors_of(model: Model) -> dict[str, Tensor]:
    """Return the stored tensors: stacked members, and the other tensors of the network once."""
    members = dict(model.posterior.members)
    network = {n: v for n, v in model.network.state_dict().items() if n not in members}
    kinds = {"model": network, "members": members, "posterior": model.posterior.tensors()}
    return {f"{kind}/{name}": value for kind, tensors in kinds.items() for name, value in tensors.items()}
