"""A committee of arbitrary ASE calculators: their spread as an uncertainty, behind the same seam as our own models.

Mean and variance over K members as in :mod:`blipcalc.core.prediction`.  Energies of members on different reference energies
measure the offsets, not the uncertainty: align them first, or read the forces only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from blipcalc.core.contracts import Heads, Need, Surface
from blipcalc.core.identity import Identity
from blipcalc.core.neighbors import neighbor_pairs
from blipcalc.core.one_at_a_time import WithLock, one_at_a_time
from blipcalc.core.prediction import Calibration, Prediction, SampleArrays, summarize
from blipcalc.core.validate import check_structure
from blipcalc.errors import ConfigurationError, DrawsError


class CommitteePredictor(WithLock):
    """Predictions from K ASE calculators, each an equally weighted draw.

    Parameters
    ----------
    calculators : K ≥ 1 members, each giving energy and forces
    calibration : constants to apply
    """

    surface: Surface = "mean"
    species: tuple[int, ...] | None = None
    has_energies = False
    heads: Heads = "none"

    def __init__(self, calculators: Sequence[Calculator], calibration: Calibration | None = None) -> None:
        if not calculators:
            raise ConfigurationError("a committee needs at least one calculator")
        for k, calculator in enumerate(calculators):
            missing = {"energy", "forces"} - set(calculator.implemented_properties)
            if missing:
                raise ConfigurationError(
                    f"committee member {k} ({type(calculator).__name__}) gives no {', '.join(missing)}"
                )
        self.calculators = tuple(calculators)
        self.n_draws = len(self.calculators)
        self.has_stress = all("stress" in c.implemented_properties for c in self.calculators)
        self.calibration = calibration

    @property
    def identity(self) -> Identity:
        """Its members and its calibration."""
        return Identity(f"{type(self).__name__} {self.calibration!r}", self.calculators)

    def __call__(self, structures: Sequence[Atoms], need: Need = Need()) -> list[Prediction]:
        """Predictions in the order of the structures; members are evaluated one after the other."""
        predictions = []
        for atoms in structures:
            samples = self._samples(self.calculators, atoms, need)
            prediction = summarize(atoms.numbers, samples, keep_samples=need.samples)
            predictions.append(prediction if self.calibration is None else self.calibration.apply(prediction))
        return predictions

    def each(
        self, structures: Sequence[Atoms], *, stress: bool = False, which: Sequence[int] | None = None
    ) -> list[SampleArrays]:
        """Member k on structure k alone; ``which``: the members, one for each structure, None for all in their order."""
        which = list(range(self.n_draws) if which is None else which)
        if len(structures) != len(which):
            raise DrawsError(f"expected one structure for each of {len(which)} members, got {len(structures)}")
        pairs = zip(which, structures, strict=True)
        return [self._samples([self.calculators[k]], atoms, Need(stress=stress)) for k, atoms in pairs]

    def single(self, k: int) -> CommitteePredictor:
        """Member k alone; raises DrawsError for a k that is none of 0 … K - 1."""
        if not 0 <= k < self.n_draws:
            raise DrawsError(f"draw {k}; expected one of 0 to {self.n_draws - 1}")
        one = CommitteePredictor([self.calculators[k]])
        one.lock = self.lock  # the member is shared
        return one

    @one_at_a_time
    def _samples(self, members: Sequence[Calculator], atoms: Atoms, need: Need) -> SampleArrays:
        check_structure(atoms)
        # members differ in what they make of two atoms at one place: a search that finds such a pair refuses it
        neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff=0.1)
        # members see charges, magnetic moments and info, from which some take charge and spin, but no constraints
        bare = atoms.copy()
        bare.set_constraint()
        names = [
            "energy",
            *(["forces"] if need.forces else []),
            *(["stress"] if need.stress and self.has_stress else []),
        ]
        values: dict[str, list] = {name: [] for name in names}
        for calculator in members:
            for name in names:
                values[name].append(np.array(calculator.get_property(name, bare), dtype=np.float64))
        return SampleArrays(**{name: np.stack(value) for name, value in values.items()})


def committee(calculators: Sequence[Calculator], calibration: Calibration | None = None) -> CommitteePredictor:
    """A predictor from ASE calculators; give it to ``BayesianCalculator``.

    Examples
    --------
    >>> atoms.calc = BayesianCalculator(committee([TBLite(method="GFN1-xTB"), TBLite(method="GFN2-xTB")]))
    """
    return CommitteePredictor(calculators, calibration)
