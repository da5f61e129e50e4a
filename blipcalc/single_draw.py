"""The surface of one draw behind a calculator, guarded by the variances of all draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties

from blipcalc.calculator import CARRIED, DEVIATIONS, BayesianCalculator, standard
from blipcalc.core.contracts import Predictor
from blipcalc.errors import ConfigurationError, DrawsError, EmptyStructureError
from blipcalc.settings import whole


@runtime_checkable
class Separable(Protocol):
    """A predictor whose draws can be had one by one, each at the cost of one."""

    def single(self, k: int) -> Predictor:
        """Draw k alone."""
        ...


class SingleDraw(Calculator):
    """Energy, forces and stress of draw k; variances are those of all draws, computed when they are asked for.

    So a run on the surface of one draw is watched by the same guard as a run on the surface that drives.

    Parameters
    ----------
    bayesian : of two draws or more
    k : which draw

    Raises
    ------
    ConfigurationError : its predictor does not give its draws one by one; DrawsError : there is no such draw
    """

    name = "draw"

    def __init__(self, bayesian: BayesianCalculator, k: int) -> None:
        super().__init__()
        if not isinstance(bayesian.predictor, Separable):
            raise ConfigurationError(
                f"{type(bayesian.predictor).__name__} does not give its draws one by one: it has no method single(k)"
            )
        self.bayesian, self.k = bayesian, whole("k", k, error=DrawsError)
        self.one = BayesianCalculator(bayesian.predictor.single(self.k), raw=True)
        self.parts = (bayesian,)
        self.parameters.update(draw=self.k)
        self._shared = [key for key in CARRIED if key in bayesian.implemented_properties]
        own = [key for key in self.one.implemented_properties if key not in CARRIED]
        self.implemented_properties = [*own, *self._shared]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Ask draw k, and all of them for variances; take along what they know beside."""
        self.results = {}
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise EmptyStructureError("expected an Atoms object, got None; give atoms")
        asked = {key: self._ask(key, True) for key in properties}
        beside = {key: self._ask(key, False) for key in self.implemented_properties if key not in asked}
        self.results = asked | {key: value for key, value in beside.items() if value is not None}

    def _ask(self, key: str, compute: bool) -> Any:
        value = (self.bayesian if key in self._shared else self.one).get_property(key, self.atoms, compute)
        # less the energy of draw k, which drives here
        return value - value[self.k] if key == DEVIATIONS and value is not None else value

    def export_properties(self) -> Properties:
        """Only what ASE knows."""
        return standard(self.results)
