"""``CombinedCalculator``: a Bayesian potential plus exact parts, such as dispersion or a restraint, with the Bayesian variances.

    E = E_model + Σ_p E_p,   F and stress likewise,   Var E = Var E_model, …: the other parts count as exact

| symbol | variable |
|---|---|
| E_model | the part with ``atom_std`` |
| E_p | the other ``parts`` |

A calibration belongs to the forces of the model: it holds for the sum where the model was calibrated on labels less the other
parts.

What other wrappers and files do with uncertainties (each line is a test):

| wrapper or file | what is lost | instead |
|---|---|---|
| ``SumCalculator``, ``MixedCalculator``, … with an exact part | all variances | ``CombinedCalculator`` |
| the same with two Bayesian parts | ``*_std`` add linearly, ``*_var`` with weights, not their squares | one Bayesian part |
| ``AverageCalculator`` of members | the spread; ``*_contributions`` in ``results`` stay | ``blipcalc.committee`` |
| ``Plumed(calc=…)`` | all but energy, forces, stress | monitor with ``calculator=`` the inner one, ``snapshot(atoms, inner)`` |
| ``Plumed`` in a run folder | the bias so far: our checkpoints do not hold it | PLUMED's own restart files |
| NEB, its ``.traj`` | all but energy and forces of inner images | ``blipcalc.write`` of the images themselves |
| NEB with a shared calculator | results of all images but one | ``snapshot(image, compute=("forces", "atom_std"))`` |
| ``ase.io.write`` | every key that is not ASE's | ``blipcalc.write`` |
| ``SinglePointCalculator(**results)`` | refuses every key that is not ASE's | ``blipcalc.calculators.snapshot`` |
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator

from blipcalc.adapters.ase_results import ask, check_part, gives
from blipcalc.calculators.base import Around
from blipcalc.calculators.bayesian import CARRIED, BayesianCalculator, Sampled, bayesian_of
from blipcalc.core.identity import Identity
from blipcalc.core.one_at_a_time import one_at_a_time
from blipcalc.core.prediction import SampleArrays
from blipcalc.errors import ConfigurationError

SUMS = ("energy", "free_energy", "energies", "forces", "stress")


class CombinedCalculator(Around):
    """Sum of one Bayesian part and exact parts, with the variances of the Bayesian part.

    ``energies`` and ``stress`` exist where all parts give them; a part without ``free_energy`` contributes its energy to it.

    Parameters
    ----------
    parts : calculators, exactly one of them Bayesian, in any order

    Raises
    ------
    ConfigurationError : no Bayesian part, more than one, or a part without energy or forces

    Examples
    --------
    >>> atoms.calc = CombinedCalculator(BayesianCalculator("model.blip"), DFTD3(method="PBE", damping="d3bj"))
    """

    name = "combined"
    implemented_properties: list[str] = [*SUMS, *CARRIED]  # noqa: RUF012 - as ASE has it

    def __init__(self, *parts: Calculator) -> None:
        super().__init__()
        models = [(part, own) for part in parts if (own := bayesian_of(part)) is not None]
        if len(models) != 1:
            names = ", ".join(type(part).__name__ for part in parts)
            remedy = (
                "variances of two posteriors do not add without their correlation; make them one committee, or take the mean "
                "of one as exact"
                if models
                else "for exact parts alone there is ase.calculators.mixing.SumCalculator"
            )
            raise ConfigurationError(
                f"expected exactly one Bayesian part, got {len(models)} of {len(parts)} ({names}); {remedy}"
            )
        self.parts, (self.model, self._bayesian) = parts, models[0]
        for k, part in enumerate(parts):
            check_part(part, f"part {k}")
        sums = [key for key in SUMS if all(gives(part, key) for part in parts)]
        self._own = [key for key in CARRIED if key in self.model.implemented_properties]
        self.implemented_properties = [*sums, *self._own]

    @property
    def identity(self) -> Identity:
        """The identities of the parts."""
        return Identity("CombinedCalculator", self.parts)

    @property
    def bayesian(self) -> BayesianCalculator:
        """The Bayesian part, which gives the variances."""
        return self._bayesian

    def share(self, key: str, compute: bool) -> Any:
        """Return a variance of the Bayesian part, or a sum over all parts.

        With ``compute=False`` it is None where a part does not know its term.
        """
        if key in self._own:
            return self.model.get_property(key, self.atoms, allow_calculation=compute)
        total: Any = None
        for k, part in enumerate(self.parts):
            share = ask(part, key, self.structure, compute, name=f"part {k}")
            if share is None:
                return None
            total = share if total is None else total + share
        return total

    @one_at_a_time
    def get_samples(self, atoms: Atoms | None = None) -> SampleArrays:
        """Evaluate energy, forces and, for periodic structures, stress of every draw anew, with the exact parts added."""
        structure = self.structure if atoms is None else atoms
        if not isinstance(self.model, Sampled):
            raise ConfigurationError(f"{type(self.model).__name__} has no draws of its own; ask its .bayesian")
        samples = self.model.get_samples(structure)
        shifted: dict[str, Any] = {}
        for key in ("energy", "forces", "stress", "energies"):
            values = getattr(samples, key)
            if values is None:
                continue
            if key not in self.implemented_properties:
                shifted[key] = None
                continue
            for k, part in enumerate(self.parts):
                if part is not self.model:
                    values = values + ask(part, key, structure, name=f"part {k}")
            shifted[key] = values
        return replace(samples, **shifted)
