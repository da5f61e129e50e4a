"""Identities of predictors and calculators: kind, settings, weights and parts.

:mod:`blipcalc.core.signature` uses them to decide whether two are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from blipcalc.core.contracts import Network
from blipcalc.files.safetensors_file import tensors_hash


@dataclass(frozen=True)
class Identity:
    """Identity that a predictor or a calculator declares.

    name : kind, with all own settings and weights that determine the numbers
    parts : other predictors and calculators that the numbers come from
    on_demand : expensive calculators that a run evaluates only where needed: they are identified by kind and parameters alone
    """

    name: str
    parts: tuple[object, ...] = ()
    on_demand: tuple[object, ...] = ()


@runtime_checkable
class Identified(Protocol):
    """A predictor or a calculator that declares its identity; any other is evaluated on a probe structure."""

    @property
    def identity(self) -> Identity:
        """Identity, equal for two objects with bit for bit the same numbers on every structure."""
        ...


@runtime_checkable
class Configured(Protocol):
    """A module that has settings."""

    config: object


def network_identity(network: Network) -> str:
    """Return kind, settings and weights of an EnergyModel as text, equal for networks with the same numbers."""
    configs = {name: repr(m.config) for name, m in network.named_modules() if isinstance(m, Configured)}
    settings = (type(network).__name__, network.cutoff, tuple(network.species), network.heads, configs)
    return f"{settings!r} {tensors_hash(network.state_dict())}"
