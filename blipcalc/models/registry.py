"""Models by name: what a model file or a command line calls an architecture."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from torch import nn

from blipcalc.errors import ConfigurationError
from blipcalc.process import plain_state

#: name -> (module, class); modules are imported when one of their models is asked for
MODELS: dict[str, tuple[str, str]] = {
    "painn": ("blipcalc.models.painn", "PaiNN"),
    "race": ("blipcalc.models.race", "Race"),
    "schnet": ("blipcalc.models.schnet", "SchNet"),
    "visnet": ("blipcalc.models.visnet", "ViSNet"),
}


def model_class(name: str) -> type[nn.Module]:
    """The class of a named model; raises :class:`ConfigurationError` for an unknown name."""
    if name not in MODELS:
        near = get_close_matches(str(name).lower(), MODELS, n=1, cutoff=0.0)
        raise ConfigurationError(
            f"unknown model {name!r}; did you mean {near[0]!r}? Known: {', '.join(sorted(MODELS))}"
        )
    module, attribute = MODELS[name]
    return getattr(importlib.import_module(module), attribute)


@plain_state()
def build_model(name: str, config: Mapping[str, object], species: Sequence[int]) -> nn.Module:
    """A model with fresh weights.

    Parameters
    ----------
    name : one of :data:`MODELS`
    config : sizes, the fields of the ``Config`` of that model; what is missing takes its default
    species : atomic numbers that the model shall know

    Raises
    ------
    ConfigurationError : unknown name or key (naming the nearest known one), or a value that is refused
    """
    cls = model_class(name)
    if not len(species):
        raise ConfigurationError(f"{name} needs at least one element, got an empty species list")
    return cls(cls.Config.of(config), species)


def model_name(model: nn.Module) -> str:
    """The name under which a model is registered; raises :class:`ConfigurationError` for a foreign one."""
    key = (type(model).__module__, type(model).__qualname__)
    for name, entry in MODELS.items():
        if entry == key:
            return name
    raise ConfigurationError(f"{'.'.join(key)} is not a registered model; known: {', '.join(sorted(MODELS))}")
