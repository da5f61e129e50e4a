"""What predictors and calculators say of themselves: kind, settings and weights, and which others their numbers come from.

:mod:`blipcalc.core.signature` decides from it whether two are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from blipcalc.core.contracts import Network
from blipcalc.files.safetensors_file import tensors_hash


@dataclass(frozen=True)
class Identity:
    """The identity that a predictor or a calculator declares.

    name : its kind, and all settings and weights of its own that decide its numbers
    parts : other predictors and calculators that its numbers are made of
    on_demand : those that a run asks only where it must, and that are too dear to be asked without need: what is known of
        them is their kind and their parameters
    """

    name: str
    parts: tuple[object, ...] = ()
    on_demand: tuple[object, ...] = ()


@runtime_checkable
class Identified(Protocol):
    """A predictor or a calculator that declares its identity; any other is asked for its numbers on a probe structure."""

    @property
    def identity(self) -> Identity:
        """Equal for two whose numbers are the same, bit for bit, on every structure."""
        ...


@runtime_checkable
class Configured(Protocol):
    """A module with settings."""

    config: object


def network_identity(network: Network) -> str:
    """Kind, settings and weights of an EnergyModel as text; equal for networks that give the same numbers."""
    configs = {name: repr(m.config) for name, m in network.named_modules() if isinstance(m, Configured)}
    settings = (type(network).__name__, network.cutoff, tuple(network.species), network.heads, configs)
    return f"{settings!r} {tensors_hash(network.state_dict())}"
