"""What all networks here have in common behind the :class:`~blipcalc.core.contracts.EnergyModel` contract."""

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
    """Sizes, elements and the way from outputs to energies; a subclass adds its layers and ``forward``.

    Parameters
    ----------
    config : sizes, with a ``cutoff`` in Å
    species : atomic numbers that it knows, in any order
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
        """Start from the training frames: reference energies (eV per element), scale (eV), mean number of pairs per atom."""
        self.energies.set(references, scale, self.species)

    def last_layers(self) -> tuple[str, ...]:
        """The layers whose first outputs are added up to the energy."""
        return ("readout_outer",)

    def conventions(self) -> dict[str, float]:
        """What the meaning of the weights rests on beside the architecture, as numbers that a model file keeps."""
        return {}

    def set_noise_unit(self, energy: float, forces: float) -> None:
        """What variances of heads are multiples of, in units of the scale: root mean square residuals of a force component, and
        of the energy over √(number of atoms).  Heads that say nothing then say what residuals are.
        """
        if self.noise_unit is None:
            raise ConfigurationError(f"{type(self).__name__} has no heads, whose variances would have a unit")
        self.noise_unit.copy_(torch.tensor([energy, forces]))

    @property
    def heads(self) -> Heads:
        """Which variances the network gives itself; a config without heads has none."""
        return "none"

    @property
    def energy_scale(self) -> float:
        """EV."""
        return float(self.energies.scale)


def xavier(*modules: nn.Module) -> None:
    """Start every linear layer inside with uniform Glorot weights and zero biases."""
    for module in (inner for outer in modules for inner in outer.modules()):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
