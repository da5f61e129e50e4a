"""Base test class for models of other packages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from ase import Atoms

from blipcalc.core.contracts import Network
from blipcalc.testing.comparisons import (
    default_structures,
    perturbed,
)
from blipcalc.testing.derivatives import check_cutoff, check_force_training, check_forces, check_stress
from blipcalc.testing.execution import check_last_layers, check_layer_roles, check_precision, check_vmap
from blipcalc.testing.invariance import (
    check_batch,
    check_isolated_atoms,
    check_lattice_shifts,
    check_protocol,
    check_supercell,
    check_symmetries,
)


class ModelContract:
    """Base test class of a model; a subclass must define ``make_model`` alone."""

    def make_model(self, dtype: torch.dtype) -> Network:
        """Return the model under test, small, with weights from a fixed seed."""
        raise NotImplementedError("make_model(dtype) must return the model to test")

    def structures(self) -> list[Atoms]:
        """Return structures of known elements; at least one with a volume."""
        return default_structures(self.make_model(torch.float64).species)

    def model(self) -> Network:
        """Return the model in float64 with every parameter perturbed."""
        return perturbed(self.make_model(torch.float64))

    def _each(self, check: Callable[[Network, Atoms], object]) -> None:
        model = self.model()
        for atoms in self.structures():
            check(model, atoms)

    def test_protocol(self) -> None:
        self._each(check_protocol)

    def test_symmetries(self) -> None:
        self._each(check_symmetries)

    def test_lattice_shifts(self) -> None:
        self._each(check_lattice_shifts)

    def test_batch(self) -> None:
        check_batch(self.model(), self.structures())

    def test_forces(self) -> None:
        self._each(check_forces)

    def test_stress(self) -> None:
        model = self.model()
        for atoms in (a for a in self.structures() if a.pbc.all()):
            check_stress(model, atoms)

    def test_cutoff(self) -> None:
        check_cutoff(self.model())

    def test_isolated_atoms(self) -> None:
        check_isolated_atoms(self.model())

    def test_supercell(self) -> None:
        check_supercell(self.model())

    def test_vmap(self) -> None:
        self._each(check_vmap)
        model = self.model()
        check_vmap(model, Atoms(numbers=[model.species[0]], positions=[[0.0, 0.0, 0.0]]))

    def test_layer_roles(self) -> None:
        self._each(check_layer_roles)

    def test_last_layers(self) -> None:
        self._each(check_last_layers)

    def test_precision(self) -> None:
        single = perturbed(self.make_model(torch.float32))
        self._each(lambda model, atoms: check_precision(model, atoms, single))

    def test_force_training(self) -> None:
        check_force_training(self.model(), self.structures()[0])
