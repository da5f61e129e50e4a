"""Predictor from a committee of ASE calculators, whose spread is the uncertainty.

Mean and variance over K members as in :mod:`blipcalc.core.prediction`.  With members on different
reference energies the energy spread measures the offsets, not the uncertainty: align them first, or use the forces only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from blipcalc.adapters.ase_results import ORDER, ask, changes, check_part, gives, shown
from blipcalc.core.identity import Identity
from blipcalc.core.neighbors import neighbor_pairs
from blipcalc.core.one_at_a_time import WithLock, one_at_a_time
from blipcalc.core.prediction import Calibration, Prediction, SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.core.validate import check_structure
from blipcalc.errors import ConfigurationError, DrawsError


@runtime_checkable
class WithPredictor(Protocol):
    """A calculator that wraps a predictor."""

    predictor: object


class CommitteePredictor(WithLock, Predictor):
    """Predictions from K ASE calculators, each an equally weighted draw.

    Parameters
    ----------
    calculators : K ≥ 1 different members, each giving energy and forces; a stress where all of them give one
    calibration : applied to the variances

    Raises
    ------
    ConfigurationError : no members, a member that is no calculator or lacks energy or forces, one object as two members
    """

    def __init__(self, calculators: Sequence[Calculator], calibration: Calibration | None = None) -> None:
        self.calculators = tuple(calculators)
        if not self.calculators:
            raise ConfigurationError("a committee needs at least one calculator")
        self._names = [f"committee member {k}" for k in range(len(self.calculators))]
        for name, calculator in zip(self._names, self.calculators, strict=True):
            check_part(calculator, name)
        _refuse_twice(self.calculators)
        self.n_draws = len(self.calculators)
        self.has_stress = all(gives(member, "stress") for member in self.calculators)
        self.calibration = calibration

    @property
    def identity(self) -> Identity:
        """The identities of the members and the calibration."""
        constants = None if self.calibration is None else self.calibration.constants
        return Identity(f"{type(self).__name__} {constants}", self.calculators)

    def changes(self, seen: Atoms | None, atoms: Atoms) -> list[str]:
        """Return ``["info"]`` where results of a member for ``info`` of ``seen`` do not hold for ``atoms``."""
        return changes(seen, atoms, self.calculators)

    def __call__(self, structures: Sequence[Atoms], need: Need = Need()) -> list[Prediction]:
        """Return predictions in the order of the structures; members are evaluated one after the other."""
        predictions = []
        for atoms in structures:
            samples = self._samples(range(self.n_draws), atoms, need)
            prediction = summarize(atoms.numbers, samples, keep_samples=need.samples)
            predictions.append(prediction if self.calibration is None else self.calibration.apply(prediction))
        return predictions

    def each(
        self, structures: Sequence[Atoms], *, stress: bool = False, which: Sequence[int] | None = None
    ) -> list[SampleArrays]:
        """Evaluate member k on structure k alone; ``which``: the members, one for each structure, None for all in their order."""
        which = list(range(self.n_draws) if which is None else which)
        if len(structures) != len(which):
            raise DrawsError(f"expected one structure for each of {len(which)} members, got {len(structures)}")
        pairs = zip(which, structures, strict=True)
        return [self._samples([k], atoms, Need(stress=stress)) for k, atoms in pairs]

    def single(self, k: int) -> CommitteePredictor:
        """Return a predictor of member k alone; raises DrawsError for a k outside 0 … K - 1."""
        if not 0 <= k < self.n_draws:
            raise DrawsError(f"draw {k}; expected one of 0 to {self.n_draws - 1}")
        one = CommitteePredictor([self.calculators[k]])
        one._names = [self._names[k]]
        one.lock = self.lock  # the member is shared
        return one

    @one_at_a_time
    def _samples(self, members: Sequence[int], atoms: Atoms, need: Need) -> SampleArrays:
        check_structure(atoms)
        # calculators treat two atoms at one place differently, so the neighbour search refuses such a pair here
        neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff=0.1)
        structure = shown(atoms)
        wanted = {"energy": True, "forces": need.forces, "stress": need.stress and self.has_stress}
        keys = [key for key in ORDER if wanted.get(key)]
        found = [{key: ask(self.calculators[k], key, structure, name=self._names[k]) for key in keys} for k in members]
        return SampleArrays(**{key: np.stack([of_member[key] for of_member in found]) for key in keys})


def _refuse_twice(members: Sequence[Calculator]) -> None:
    """Refuse one object as two members: they agree always, and would suggest certainty."""
    first: dict[int, int] = {}
    for k, member in enumerate(members):
        source = member.predictor if isinstance(member, WithPredictor) else member
        if id(source) in first:
            what = "the same object" if source is member else f"around the same {type(source).__name__}"
            raise ConfigurationError(
                f"committee members {first[id(source)]} and {k} ({type(member).__name__}) are {what}: their spread is zero "
                "and says nothing; give calculators that were made or trained independently"
            )
        first[id(source)] = k


def committee(calculators: Sequence[Calculator], calibration: Calibration | None = None) -> CommitteePredictor:
    """Return a predictor from ASE calculators, for ``BayesianCalculator``.

    Examples
    --------
    >>> atoms.calc = BayesianCalculator(committee([TBLite(method="GFN1-xTB"), TBLite(method="GFN2-xTB")]))
    """
    return CommitteePredictor(calculators, calibration)
