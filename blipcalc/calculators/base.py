"""Base class of calculators that combine others: outdated results and the source of the variances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties

from blipcalc.adapters.ase_results import changes
from blipcalc.calculators.bayesian import standard
from blipcalc.core.one_at_a_time import AnswersOneAtATime, one_at_a_time
from blipcalc.errors import EmptyStructureError


class Around(AnswersOneAtATime, Calculator):
    """Base of calculators built from others; its results hold as long as those of all parts hold.

    parts : the calculators that give the results
    """

    parts: tuple[Calculator, ...]

    def changes(self, seen: Atoms | None, atoms: Atoms) -> list[str]:
        """Return ``["info"]`` where results of a part for ``info`` of ``seen`` do not hold for ``atoms``, else nothing."""
        return changes(seen, atoms, self.parts)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last results, by ASE's comparison or in entries of ``info`` that a part reads."""
        return super().check_state(atoms, tol) or self.changes(self.atoms, atoms)

    def begin(self, atoms: Atoms | None, properties: Sequence[str], system_changes: Sequence[str]) -> None:
        """Store the structure and clear the results of the previous one.

        raises : EmptyStructureError where no structure was ever given
        """
        self.results = {}
        super().calculate(atoms, list(properties), list(system_changes))
        _ = self.structure  # refuses None

    @property
    def structure(self) -> Atoms:
        """The structure of the last request; raises EmptyStructureError where none was given."""
        if self.atoms is None:
            raise EmptyStructureError("expected an Atoms object, got None; give atoms")
        return self.atoms

    def share(self, key: str, compute: bool) -> Any:
        """Return one property, made from those of the parts; with ``compute=False`` None where it is not known."""
        raise NotImplementedError

    @one_at_a_time
    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute the requested properties, and add those that the parts know already.

        raises : EmptyStructureError where no structure was ever given
        """
        self.begin(atoms, properties, system_changes)
        asked = {key: self.share(key, True) for key in properties}
        beside = {key: self.share(key, False) for key in self.implemented_properties if key not in asked}
        self.results = asked | {key: value for key, value in beside.items() if value is not None}

    def get_uncertainty(self, atoms: Atoms | None = None) -> np.ndarray:
        """Return (n,) ``atom_std`` of the Bayesian part, eV/Å."""
        return self.get_property("atom_std", atoms)

    def export_properties(self) -> Properties:
        """Return only the properties that ASE knows."""
        return standard(self.results)
