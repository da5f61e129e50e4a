"""Calculator of a single draw, with the variances of all draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Protocol, runtime_checkable

from ase import Atoms

from blipcalc.adapters.ase_results import Vouching, changes
from blipcalc.calculators.base import Around
from blipcalc.calculators.bayesian import CARRIED, DEVIATIONS, BayesianCalculator
from blipcalc.core.demanded import demanded
from blipcalc.core.identity import Identity
from blipcalc.core.prediction import Prediction, SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.errors import DrawsError
from blipcalc.settings import whole


@runtime_checkable
class Separable(Protocol):
    """A predictor that can evaluate a single draw at the cost of one."""

    def single(self, k: int) -> Predictor:
        """Return a predictor of draw k alone."""
        ...


class SingleDraw(Around):
    """Energy, forces and stress of draw k, with the variances of all draws computed on request.

    A run on the surface of one draw is thus monitored by the same criteria as a run on the driving potential.

    Parameters
    ----------
    bayesian : a calculator of two draws or more
    k : index of the draw

    Raises
    ------
    DrawsError : there is no such draw
    """

    name = "draw"

    def __init__(self, bayesian: BayesianCalculator, k: int) -> None:
        super().__init__()
        predictor, k = bayesian.predictor, whole("k", k, error=DrawsError)
        if not 0 <= k < predictor.n_draws:
            raise DrawsError(f"k={k}; expected one of the draws 0 … {predictor.n_draws - 1}")
        self.bayesian, self.k = bayesian, k
        alone = predictor.single(k) if isinstance(predictor, Separable) else OneOfAll(predictor, k)
        self.one = BayesianCalculator(alone, raw=True)
        self.parts = (bayesian,)
        self.parameters.update(draw=self.k)
        self._shared = [key for key in CARRIED if key in bayesian.implemented_properties]
        own = [key for key in self.one.implemented_properties if key not in CARRIED]
        self.implemented_properties = [*own, *self._shared]

    @property
    def identity(self) -> Identity:
        """The identity of the Bayesian calculator and the index of the draw."""
        return Identity(f"SingleDraw {self.k}", self.parts)

    def share(self, key: str, compute: bool) -> Any:
        """Return a property of draw k, or a variance of all draws."""
        value = (self.bayesian if key in self._shared else self.one).get_property(key, self.atoms, compute)
        # relative to draw k, the driving potential here
        return value - value[self.k] if key == DEVIATIONS and value is not None else value


class OneOfAll(Predictor):
    """Draw k, uncalibrated, of a predictor that cannot evaluate single draws: all draws are evaluated.

    Parameters
    ----------
    predictor : a predictor of K draws that returns samples
    k : index of the draw, from 0
    """

    n_draws = 1

    def __init__(self, predictor: Predictor, k: int) -> None:
        self._predictor, self._k = predictor, k
        self.species = predictor.species
        self.has_stress, self.has_energies = predictor.has_stress, predictor.has_energies

    @property
    def identity(self) -> Identity:
        """The identity of the predictor and the index of the draw."""
        return Identity(f"{type(self).__name__} {self._k}", (self._predictor,))

    def changes(self, seen: Atoms | None, atoms: Atoms) -> list[str]:
        """Return ``["info"]`` where results for ``info`` of ``seen`` do not hold for ``atoms``, as the predictor decides."""
        return changes(seen, atoms, [self._predictor] if isinstance(self._predictor, Vouching) else [])

    def __call__(self, structures: Sequence[Atoms], need: Need = Need()) -> list[Prediction]:
        """Return predictions in the order of the structures."""
        found = self._predictor(list(structures), replace(need, variance=True, samples=True))
        return [
            summarize(atoms.numbers, self._only(prediction), keep_samples=need.samples)
            for atoms, prediction in zip(structures, found, strict=True)
        ]

    def _only(self, prediction: Prediction) -> SampleArrays:
        samples = demanded(prediction.samples, "the samples of the draws")
        held = {field.name: getattr(samples, field.name) for field in fields(samples)}
        noise = ("energy_var", "forces_cov")
        return SampleArrays(
            **{
                name: value[self._k : self._k + 1]
                for name, value in held.items()
                if value is not None and name not in noise
            }
        )
