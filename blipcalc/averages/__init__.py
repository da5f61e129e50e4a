"""Thermal averages of stored runs, with the error of the model and that of sampling."""

from blipcalc.averages.average import average
from blipcalc.averages.independent_runs import independent_runs

__all__ = [
    "average",
    "independent_runs",
]
