"""The error bar of the energy per atom, which no criterion of blipcalc itself watches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from blipcalc.monitor.block_maxima import ReferenceBlocks
from blipcalc.monitor.decisions import Decision, Reading
from blipcalc.monitor.fitted_criterion import Budget, FittedCriterion, Passed, Signal, Watch, rate_text
from blipcalc.stats.rates import level_for_rate

#: eV per atom
ENERGY = Signal("energy_std_per_atom", lambda ratio, reading: reading.energy_std / reading.n_atoms)


@dataclass(frozen=True)
class EnergyLimit:
    """``energy_std`` / n ≤ limit at every check.

    limit : eV per atom
    """

    limit: float

    def __call__(self, reading: Reading) -> Decision:
        """The decision; NaN breaches."""
        value = reading.energy_std / reading.n_atoms
        reason = f"the error bar of the energy is {value:.3g} eV per atom, limit {self.limit:.3g}"
        return Decision(not (value <= self.limit), (), value, self.limit, "eV/atom", reason, reading.step)


class FittedEnergy(FittedCriterion):
    """The error bar of the energy, per atom."""

    name: Literal["energy"] = "energy"
    signal = ENERGY
    limit: Passed

    @classmethod
    def fit(cls, reference: ReferenceBlocks, budget: Budget, domain_hash: str | None) -> Self | None:
        """From its maxima over blocks."""
        found = level_for_rate(*reference.maxima(ENERGY.name), budget.rate_per_ns, budget.confidence)
        return None if found is None else cls(limit=found)

    @property
    def expected_rate(self) -> float:
        """That of the limit."""
        return self.limit.rate

    def criterion(self, watch: Watch) -> EnergyLimit:
        """The rule."""
        return EnergyLimit(self.limit.value)

    def text(self, watch: Watch) -> str:
        """Limit and rate."""
        return f"error bar of the energy ≤ {1e3 * self.limit.value:.4g} meV per atom: {rate_text(self.limit)}"
