"""``BaselineFallback``: a smooth, conservative mixture of a Bayesian potential and a baseline, weighted by the variance.

    V = w E + (1 - w) V_b,        w = σ_b² / (σ_b² + σ²),        σ² = s Var_k E_k
    F = w F_E + (1 - w) F_b - 2 s w² / σ_b² (E - V_b) Cov_k(E_k, F_k)

The last term comes from ∇w, since ∇Var_k E_k = -2 Cov_k(E_k, F_k) for fixed draws (divisor K-1 in both); the stress has it with
the opposite sign, from the stresses of the draws.  Without this term the run heats or cools.

| symbol | variable |
|---|---|
| E, F_E | energy (eV) and forces of the Bayesian calculator's driving potential |
| V_b, F_b | those of ``baseline``, its zero of energy shifted to the model's |
| σ_b | ``sigma_baseline_eV``: standard deviation of the error of the baseline's *total* energy |
| s | ``scale_energy`` of the calibration; 1 without one |
| w | ``weight`` in the results |

**Total energies.**  σ and σ_b are those of the whole structure, as in i-PI: a single w for all atoms
keeps V a potential.  Errors of similar environments add up, so σ grows with the number of atoms N (at least as √N), and σ_b must
grow with it: give the error of the baseline for *this* system.  A single atom unknown to the model moves all others to the
baseline too.

**Zeros of energy.**  ∇w is multiplied by E - V_b, so an offset between the methods would be a force.  ``shifts`` or
``align_on`` removes it.  Members of a committee need a common zero for the same reason.

Source: Imbalzano, Zhuang, Kapil, Rossi, Engel, Grasselli, Ceriotti 2021, J. Chem. Phys. 154, 074102,
doi:10.1063/5.0036522, arXiv:2011.08828 (weighted baseline).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from blipcalc.adapters.ase_results import ask, check_part, gives
from blipcalc.calculators.base import Around
from blipcalc.calculators.bayesian import (
    DISTANCE,
    NEEDS_FORCES,
    NEEDS_STRESS,
    VARIANCES,
    BayesianCalculator,
    results_of,
)
from blipcalc.core.demanded import demanded
from blipcalc.core.identity import Identity
from blipcalc.core.one_at_a_time import one_at_a_time
from blipcalc.core.prediction import Prediction, SampleArrays
from blipcalc.core.predictor_contract import Need, predictions
from blipcalc.errors import ConfigurationError, EmptyStructureError, NonFiniteError
from blipcalc.stats.spread import cross_covariance, spread

BLENDED = ("energy", "free_energy", "forces", "stress")


class BaselineFallback(Around):
    """Energy, forces and stress of the weighted mixture, its ``weight`` (1: the model alone), and variances of the model.

    Variances are those of the model, not of V: where w is small the run does not follow the model.

    Parameters
    ----------
    bayesian : the model, with n_draws ≥ 2
    baseline : any calculator with energy and forces that is sound where the model is not
    sigma_baseline_eV : σ_b, eV, of the total energy
    shifts : {symbol: eV per atom} added to the baseline, for every element
    align_on : instead, a structure at which the shifted baseline has the energy of the model; for its composition only

    Raises
    ------
    ConfigurationError : invalid settings, or a structure that the shifts do not cover
    NonFiniteError : energy, forces or stress of the baseline are not finite

    Examples
    --------
    >>> atoms.calc = BaselineFallback(BayesianCalculator("rmd17"), TBLite(), sigma_baseline_eV=0.1, align_on=relaxed)
    """

    name = "fallback"
    implemented_properties: list[str] = [*BLENDED, *VARIANCES, DISTANCE, "weight"]  # noqa: RUF012 - as ASE has it

    def __init__(
        self,
        bayesian: BayesianCalculator,
        baseline: Calculator,
        *,
        sigma_baseline_eV: float,
        shifts: Mapping[str, float] | None = None,
        align_on: Atoms | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(bayesian, BayesianCalculator):
            raise ConfigurationError(
                f"expected a BayesianCalculator, got {type(bayesian).__name__}; add exact parts around the fallback, not in it"
            )
        if bayesian.predictor.n_draws < 2:
            raise ConfigurationError(f"a weight takes n_draws ≥ 2, got {bayesian.predictor.n_draws}")
        if not (0 < sigma_baseline_eV < np.inf):
            raise ConfigurationError(f"sigma_baseline_eV={sigma_baseline_eV}; expected a positive number of eV")
        if (shifts is None) == (align_on is None):
            raise ConfigurationError(
                "zeros of energy differ between methods: give shifts={symbol: eV per atom} (zeros where they agree), or "
                "align_on=, a structure at which the two shall agree; one of them"
            )
        check_part(baseline, "the baseline")
        self.bayesian, self.baseline = bayesian, baseline
        self.parts = (bayesian, baseline)
        self._var_baseline, self._shifts = float(sigma_baseline_eV) ** 2, None if shifts is None else dict(shifts)
        self._numbers: list[int] | None = None
        self._offset = 0.0
        if align_on is not None:
            energies = [ask(bayesian, "energy", align_on), ask(baseline, "energy", align_on, name="the baseline")]
            self._offset, self._numbers = energies[0] - energies[1], sorted(align_on.numbers)
        self.parameters.update(
            sigma_baseline_eV=float(sigma_baseline_eV), shifts=self._shifts, offset_eV=round(self._offset, 6)
        )
        known = {"energy", "free_energy", "forces", "weight", *bayesian.implemented_properties} - {"stress", "energies"}
        if all(gives(part, "stress") for part in self.parts):
            known.add("stress")
        self.implemented_properties = [key for key in type(self).implemented_properties if key in known]

    @property
    def identity(self) -> Identity:
        """The identities of the parts, σ_b and the zeros of energy."""
        return Identity(f"BaselineFallback {dict(self.parameters)!r}", self.parts)

    @one_at_a_time
    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the draws, and the baseline where energy, forces or stress are requested."""
        asked = set(properties) | (set() if system_changes else set(self.results))
        self.begin(atoms, properties, system_changes)
        structure = self.structure
        if len(structure) == 0:
            raise EmptyStructureError("expected at least one atom, got an empty Atoms object")
        if asked & set(NEEDS_STRESS) and not structure.pbc.all():
            raise PropertyNotImplementedError(
                f"stress needs a cell that is periodic in three directions; pbc is {structure.pbc.tolist()}"
            )
        stress = bool(asked & set(NEEDS_STRESS))
        need = Need(forces=stress or bool(asked & set(NEEDS_FORCES)), stress=stress, variance=True, samples=True)
        (prediction,) = predictions(self.bayesian.predictor, [structure], need)
        results = {key: value for key, value in results_of(prediction).items() if key in VARIANCES}
        var = self._variance(prediction)
        weight = results["weight"] = self._var_baseline / (self._var_baseline + var)
        if asked & set(BLENDED):
            results |= self._blend(prediction, var, weight)
        if DISTANCE in asked:
            results[DISTANCE] = self.bayesian.predictor.latent_distances([structure])[0]
        self.results = results

    def _variance(self, prediction: Prediction) -> float:
        """Return σ², eV²: the variance between the draws, without the noise of heads, which must not change the weight."""
        var = _scale(prediction) * float(spread(_samples(prediction).energy)[1])
        if not np.isfinite(var):
            raise NonFiniteError(f"the variance of the energy is {var}; expected a number")
        return var

    def _blend(self, prediction: Prediction, var: float, weight: float) -> dict[str, float | np.ndarray]:
        """Compute energy, forces and stress by the equations in the docstring of this module."""
        samples, rest = _samples(prediction), var / (self._var_baseline + var)
        # the driving potential may have forces from an earlier evaluation that the draws lack
        evaluated = (("stress", samples.stress), ("forces", samples.forces))
        keys = [key for key, values in evaluated if values is not None and getattr(prediction, key) is not None]
        # derivatives first: some calculators compute the energy alone, and would then start again
        of_baseline = {key: ask(self.baseline, key, self.structure, name="the baseline") for key in (*keys, "energy")}
        base = of_baseline["energy"] + self._shift()
        gap = prediction.energy - base
        blended: dict[str, float | np.ndarray] = {"energy": weight * prediction.energy + rest * base}
        blended["free_energy"] = blended["energy"]
        of_weight = 2.0 * _scale(prediction) * weight**2 / self._var_baseline * gap
        for key in keys:
            mixed = weight * getattr(prediction, key) + rest * of_baseline[key]
            blended[key] = mixed - of_weight * cross_covariance(samples.energy, getattr(samples, key))
        return blended

    def _shift(self) -> float:
        """Return the shift added to the baseline's energy, eV."""
        structure = self.structure
        if self._shifts is not None:
            unknown = sorted(set(structure.symbols) - set(self._shifts))
            if unknown:
                raise ConfigurationError(f"no shift for {', '.join(unknown)}; name every element, 0.0 for none")
            return float(sum([self._shifts[symbol] for symbol in structure.symbols]))
        if sorted(structure.numbers) != self._numbers:
            raise ConfigurationError(
                f"align_on= was of another composition than {structure.get_chemical_formula()}; give shifts= for several"
            )
        return self._offset


def _scale(prediction: Prediction) -> float:
    return 1.0 if prediction.calibration is None else prediction.calibration.scale_energy


def _samples(prediction: Prediction) -> SampleArrays:
    return demanded(prediction.samples, "the samples of the draws")
