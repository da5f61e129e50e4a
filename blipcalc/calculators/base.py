"""What calculators around others have in common: when their results are out of date, and where their variances come from."""

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
    """A calculator around others, whose results hold as long as those of its parts do; each says how it makes one of them.

    parts : the calculators that its results come from
    """

    parts: tuple[Calculator, ...]

    def changes(self, seen: Atoms | None, atoms: Atoms) -> list[str]:
        """Whether results for ``info`` of one structure do not hold for that of another: as soon as one part says so."""
        return changes(seen, atoms, self.parts)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last results: what ASE compares, and inputs of the parts in ``info``."""
        return super().check_state(atoms, tol) or self.changes(self.atoms, atoms)

    def begin(self, atoms: Atoms | None, properties: Sequence[str], system_changes: Sequence[str]) -> None:
        """Keep the structure, and forget what belonged to another.

        raises : EmptyStructureError where no structure was ever given
        """
        self.results = {}
        super().calculate(atoms, list(properties), list(system_changes))
        _ = self.structure  # refuses None

    @property
    def structure(self) -> Atoms:
        """The structure of the last question; raises EmptyStructureError where none was ever given."""
        if self.atoms is None:
            raise EmptyStructureError("expected an Atoms object, got None; give atoms")
        return self.atoms

    def share(self, key: str, compute: bool) -> Any:
        """The value of one property, made of what the parts say; None where it is not known and not to be computed."""
        raise NotImplementedError

    @one_at_a_time
    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill the results with what is asked for, computed, and beside it what the parts know already.

        raises : EmptyStructureError where no structure was ever given
        """
        self.begin(atoms, properties, system_changes)
        asked = {key: self.share(key, True) for key in properties}
        beside = {key: self.share(key, False) for key in self.implemented_properties if key not in asked}
        self.results = asked | {key: value for key, value in beside.items() if value is not None}

    def get_uncertainty(self, atoms: Atoms | None = None) -> np.ndarray:
        """(n,) ``atom_std`` of the Bayesian part, eV/Å."""
        return self.get_property("atom_std", atoms)

    def export_properties(self) -> Properties:
        """Only what ASE knows."""
        return standard(self.results)
