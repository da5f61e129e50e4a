"""ASE calculators: the Bayesian calculator, calculators around it, and snapshots of their results."""

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.reference_on_demand import ReferenceOnDemand
from blipcalc.calculators.result_names import ipi_extras, mace_results
from blipcalc.calculators.snapshot import snapshot
from blipcalc.calculators.weighted_baseline import BaselineFallback

__all__ = [
    "BaselineFallback",
    "BayesianCalculator",
    "CombinedCalculator",
    "ReferenceOnDemand",
    "ipi_extras",
    "mace_results",
    "snapshot",
]
