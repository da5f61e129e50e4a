"""Models by name: what a model file or a command line calls an architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blipcalc.core.contracts import Network
from blipcalc.errors import ConfigurationError
from blipcalc.process import plain_state
from blipcalc.registries import MODELS


@plain_state()
def build_model(name: str, config: Mapping[str, object], species: Sequence[int]) -> Network:
    """A model with fresh weights.

    Parameters
    ----------
    name : in :data:`MODELS`
    config : sizes, the fields of the ``Config`` of that model; what is missing takes its default
    species : atomic numbers that the model shall know

    Raises
    ------
    ConfigurationError : unknown name or key (naming the nearest known one), or a value that is refused
    """
    cls = MODELS[name]
    if not len(species):
        raise ConfigurationError(f"{name} needs at least one element, got an empty species list")
    return cls(cls.Config.of(config), species)


def model_name(model: Network) -> str:
    """The name under which a model is registered; raises :class:`ConfigurationError` for a foreign one."""
    return MODELS.name_of(type(model))
