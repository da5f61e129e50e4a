"""Construction of models by the names of their architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blipcalc.core.contracts import Network
from blipcalc.errors import ConfigurationError
from blipcalc.process import plain_state
from blipcalc.registries import MODELS


@plain_state()
def build_model(name: str, config: Mapping[str, object], species: Sequence[int]) -> Network:
    """Return a model with new weights.

    Parameters
    ----------
    name : in :data:`MODELS`
    config : sizes, the fields of the ``Config`` of that model; a missing field has its default
    species : atomic numbers of the model

    Raises
    ------
    ConfigurationError : unknown name or key (naming the nearest known one), or an invalid value
    """
    cls = MODELS[name]
    if not len(species):
        raise ConfigurationError(f"{name} needs at least one element, got an empty species list")
    return cls(cls.Config.of(config), species)


def model_name(model: Network) -> str:
    """Return the registered name of a model; raises :class:`ConfigurationError` for an unregistered one."""
    return MODELS.name_of(type(model))
