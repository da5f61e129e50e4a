"""One draw of any predictor as a predictor of its own, where it cannot take its draws apart itself: all are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from ase import Atoms

from blipcalc.core.contracts import Heads, Need, Predictor, Surface
from blipcalc.core.prediction import Prediction, SampleArrays, summarize


class OneDraw:
    """Draw k of a predictor, uncalibrated.

    Parameters
    ----------
    predictor : of K draws, that gives its samples
    k : from 0
    """

    surface: Surface = "mean"
    heads: Heads = "none"
    n_draws = 1

    def __init__(self, predictor: Predictor, k: int) -> None:
        self._predictor, self._k = predictor, k
        self.species = predictor.species
        self.has_stress, self.has_energies = predictor.has_stress, predictor.has_energies

    def __call__(self, structures: Sequence[Atoms], need: Need = Need()) -> list[Prediction]:
        """Predictions in the order of the structures."""
        found = self._predictor(list(structures), replace(need, variance=True, samples=True))
        return [
            summarize(atoms.numbers, self._only(prediction.samples), keep_samples=need.samples)
            for atoms, prediction in zip(structures, found, strict=True)
        ]

    def _only(self, samples: SampleArrays) -> SampleArrays:
        held = {field.name: getattr(samples, field.name) for field in fields(samples)}
        noise = ("energy_var", "forces_cov")
        return SampleArrays(
            **{
                name: value[self._k : self._k + 1]
                for name, value in held.items()
                if value is not None and name not in noise
            }
        )
