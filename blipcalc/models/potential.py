"""Base class of all networks here, which fulfil the :class:`~blipcalc.core.contracts.EnergyModel` contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blipcalc.core.contracts import Heads, Network
from blipcalc.errors import ConfigurationError
from blipcalc.models.readout import AtomicEnergies
from blipcalc.nn.species import SpeciesTable


class Potential(Network):
    """Sizes, elements and conversion of outputs to energies; a subclass adds its layers and ``forward``.

    Parameters
    ----------
    config : sizes, with a ``cutoff`` in Å
    species : known atomic numbers, in any order
    """

    supports_vmap = True
    noise_unit: Tensor | None

    def __init__(self, config: Any, species: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.cutoff = config.cutoff
        self.species = tuple(sorted({int(z) for z in species}))
        self.table = SpeciesTable(self.species)
        self.energies = AtomicEnergies(len(self.species))
        self.register_buffer("noise_unit", None if self.heads == "none" else torch.ones(2))

    def set_statistics(self, references: Mapping[int, float], scale: float, neighbors: float) -> None:
        """Set statistics of the training frames: reference energies (eV per element), scale (eV), mean pairs per atom."""
        self.energies.set(references, scale, self.species)

    def last_layers(self) -> tuple[str, ...]:
        """Return the layers whose first outputs sum to the energy."""
        return ("readout_outer",)

    def conventions(self) -> dict[str, float]:
        """Return conventions beside the architecture that the weights rely on, as numbers for the model file."""
        return {}

    def set_noise_unit(self, energy: float, forces: float) -> None:
        """Set the units of variances of heads, in units of the scale.

        They are root mean square residuals of a force component, and of the energy over √(number of atoms): zero outputs of heads
        then mean these.
        """
        if self.noise_unit is None:
            raise ConfigurationError(f"{type(self).__name__} has no heads, whose variances would have a unit")
        self.noise_unit.copy_(torch.tensor([energy, forces]))

    @property
    def heads(self) -> Heads:
        """Variances that the network itself gives; a config without heads has none."""
        return "none"

    @property
    def energy_scale(self) -> float:
        """Unit of the network's outputs, eV."""
        return float(self.energies.scale)


def xavier(*modules: nn.Module) -> None:
    """Initialise every linear layer inside with uniform Glorot weights and zero biases."""
    for module in (inner for outer in modules for inner in outer.modules()):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
