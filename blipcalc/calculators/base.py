"""What calculators around others have in common: when their results are out of date, and where their variances come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.outputs import Properties

from blipcalc.adapters.ase_results import changes
from blipcalc.calculators.bayesian import standard
from blipcalc.core.one_at_a_time import AnswersOneAtATime
from blipcalc.errors import EmptyStructureError


class Around(AnswersOneAtATime, Calculator):
    """A calculator around others, whose results hold as long as those of its parts do.

    parts : the calculators that its results come from
    """

    parts: tuple[Calculator, ...]

    def changes(self, seen: Atoms | None, atoms: Atoms) -> list[str]:
        """Whether results for ``info`` of one structure do not hold for that of another: as soon as one part says so."""
        return changes(seen, atoms, self.parts)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last results: what ASE compares, and inputs of the parts in ``info``."""
        return super().check_state(atoms, tol) or self.changes(self.atoms, atoms)

    def gather(
        self,
        atoms: Atoms | None,
        properties: Sequence[str],
        system_changes: Sequence[str],
        share: Callable[[str, bool], Any],
    ) -> None:
        """Fill the results with what is asked for, computed, and beside it what the parts know already.

        share : (property, whether to compute it) -> its value, or None where it is not known

        raises : EmptyStructureError where no structure was ever given
        """
        self.results = {}
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise EmptyStructureError("expected an Atoms object, got None; give atoms")
        asked = {key: share(key, True) for key in properties}
        beside = {key: share(key, False) for key in self.implemented_properties if key not in asked}
        self.results = asked | {key: value for key, value in beside.items() if value is not None}

    def get_uncertainty(self, atoms: Atoms | None = None) -> np.ndarray:
        """(n,) ``atom_std`` of the Bayesian part, eV/Å."""
        return self.get_property("atom_std", atoms)

    def export_properties(self) -> Properties:
        """Only what ASE knows."""
        return standard(self.results)
