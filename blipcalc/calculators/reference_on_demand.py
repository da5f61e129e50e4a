"""``ReferenceOnDemand``: MD on a Bayesian potential or on a reference method, with the variances of the potential.

Energy, forces and stress come from the ``active`` method; variances always come from the model, computed on request.
:class:`~blipcalc.monitor.actions.AskReference` switches between them in MD.

A switch changes the potential: energies jump by the offset between the methods, total energy is not conserved, and the run
samples neither surface exactly.  With a thermostat and rare switches the run stays sound; averages of energies over both kinds of
frames are meaningless (``from_reference`` in the results tells the frames apart).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from ase import Atoms
from ase.calculators.calculator import Calculator

from blipcalc.adapters.ase_results import ask, changes, check_part, gives
from blipcalc.calculators.base import Around
from blipcalc.calculators.bayesian import CARRIED, BayesianCalculator, bayesian_of
from blipcalc.core.identity import Identity
from blipcalc.core.one_at_a_time import one_at_a_time
from blipcalc.errors import ConfigurationError

SURFACES = ("energy", "free_energy", "forces", "stress")
Active = Literal["model", "reference"]


class ReferenceOnDemand(Around):
    """Energy, forces and stress of the model or of a reference, variances of the model, and ``from_reference``, 1 or 0.

    It must be the structure's own calculator: a sum around it would not notice a switch.

    Parameters
    ----------
    model : a BayesianCalculator, or a sum with one
    reference : any calculator with energy and forces

    Raises
    ------
    ConfigurationError : a model without a Bayesian part, a reference without energy or forces

    Examples
    --------
    >>> atoms.calc = ReferenceOnDemand(BayesianCalculator("model.blip"), Vasp(...))
    >>> run_md(atoms, time_ps=10, threshold=0.3, on_breach=AskReference("to_train_on.traj"))
    """

    name = "on_demand"
    implemented_properties: list[str] = [*SURFACES, *CARRIED]  # noqa: RUF012 - as ASE has it

    def __init__(self, model: Calculator, reference: Calculator) -> None:
        super().__init__()
        bayesian = bayesian_of(model)
        if bayesian is None:
            raise ConfigurationError(
                f"expected a BayesianCalculator, or a sum with one, as the model, got {type(model).__name__}; the reference is "
                "the second argument"
            )
        check_part(reference, "the reference")
        self.model, self.reference, self._bayesian = model, reference, bayesian
        self.parts = (model, reference)
        self._active: Active = "model"
        self._own = [key for key in CARRIED if key in model.implemented_properties]
        surfaces = [key for key in SURFACES if all(gives(part, key) for part in self.parts)]
        self.implemented_properties = [*surfaces, *self._own, "from_reference"]

    @property
    def identity(self) -> Identity:
        """The identity of the model; the reference is identified by its class and parameters."""
        return Identity("ReferenceOnDemand", (self.model,), on_demand=(self.reference,))

    @property
    def bayesian(self) -> BayesianCalculator:
        """The Bayesian part, which gives the variances."""
        return self._bayesian

    @property
    def active(self) -> Active:
        """The driving method, ``model`` or ``reference``."""
        return self._active

    @one_at_a_time
    def switch(self, active: Active) -> None:
        """Make the model or the reference the driving potential; a change clears the results."""
        if active not in get_args(Active):
            raise ConfigurationError(f"active={active!r}; expected one of {', '.join(get_args(Active))}")
        if active != self._active:
            self._active, self.results = active, {}

    def changes(self, seen: Atoms | None, atoms: Atoms) -> list[str]:
        """Return ``["info"]`` where results of the model or the driving calculator do not hold for ``atoms``."""
        return changes(seen, atoms, (self.model, self._drives))

    @property
    def _drives(self) -> Calculator:
        return self.reference if self._active == "reference" else self.model

    def share(self, key: str, compute: bool) -> Any:
        """Return a variance of the model, or any other property of the driving calculator."""
        if key == "from_reference":
            return float(self._active == "reference")
        if key in self._own:
            return self.model.get_property(key, self.atoms, allow_calculation=compute)
        return ask(self._drives, key, self.structure, compute, name=f"the {self._active} that drives")
