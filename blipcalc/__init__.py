"""blipcalc: molecular dynamics with machine-learned potentials that knows what it does not know."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blipcalc.adapters.committee import committee
    from blipcalc.averages.average import average
    from blipcalc.averages.independent_runs import independent_runs
    from blipcalc.calculators.bayesian import BayesianCalculator
    from blipcalc.calculators.combined import CombinedCalculator
    from blipcalc.calculators.reference_on_demand import ReferenceOnDemand
    from blipcalc.calculators.result_names import ipi_extras, mace_results
    from blipcalc.calculators.snapshot import snapshot as freeze
    from blipcalc.calculators.weighted_baseline import BaselineFallback
    from blipcalc.calibration.evaluation import evaluate_model as evaluate
    from blipcalc.calibration.fit import calibrate
    from blipcalc.core.domain import closest_distances
    from blipcalc.core.graph import Graph
    from blipcalc.core.prediction import Calibration, Prediction
    from blipcalc.io import read, write
    from blipcalc.md.run_md import run_md
    from blipcalc.model_file.model_file import load_model as load
    from blipcalc.monitor.actions import AskReference, Record, RollBack
    from blipcalc.monitor.audit import LabelAudit
    from blipcalc.monitor.faults import TooClose
    from blipcalc.monitor.fit_limits import check_reference
    from blipcalc.monitor.limits import Limits
    from blipcalc.monitor.observer import UncertaintyMonitor
    from blipcalc.monitor.run_criteria import Patient
    from blipcalc.posteriors.blip import bayesianize
    from blipcalc.properties.barrier import barrier
    from blipcalc.properties.elastic import elastic_constants
    from blipcalc.properties.energy_differences import adsorption_energy, energy_difference, vacancy_energy
    from blipcalc.properties.equation_of_state import equation_of_state
    from blipcalc.properties.phonons import phonons
    from blipcalc.properties.scans import dihedral_scan, dimer_scan, distance_scan
    from blipcalc.properties.vibrations import vibrations
    from blipcalc.relaxation.relax import relax
    from blipcalc.report.page import write_report
    from blipcalc.training.train import train

__version__ = "0.1.0"

#: public name -> (module, attribute); loaded at first use, so that importing the package is instant
_PUBLIC = {
    "AskReference": ("blipcalc.monitor.actions", "AskReference"),
    "BaselineFallback": ("blipcalc.calculators.weighted_baseline", "BaselineFallback"),
    "BayesianCalculator": ("blipcalc.calculators.bayesian", "BayesianCalculator"),
    "Calibration": ("blipcalc.core.prediction", "Calibration"),
    "CombinedCalculator": ("blipcalc.calculators.combined", "CombinedCalculator"),
    "Graph": ("blipcalc.core.graph", "Graph"),
    "LabelAudit": ("blipcalc.monitor.audit", "LabelAudit"),
    "Limits": ("blipcalc.monitor.limits", "Limits"),
    "Patient": ("blipcalc.monitor.run_criteria", "Patient"),
    "Prediction": ("blipcalc.core.prediction", "Prediction"),
    "Record": ("blipcalc.monitor.actions", "Record"),
    "ReferenceOnDemand": ("blipcalc.calculators.reference_on_demand", "ReferenceOnDemand"),
    "RollBack": ("blipcalc.monitor.actions", "RollBack"),
    "TooClose": ("blipcalc.monitor.faults", "TooClose"),
    "UncertaintyMonitor": ("blipcalc.monitor.observer", "UncertaintyMonitor"),
    "adsorption_energy": ("blipcalc.properties.energy_differences", "adsorption_energy"),
    "average": ("blipcalc.averages.average", "average"),
    "barrier": ("blipcalc.properties.barrier", "barrier"),
    "bayesianize": ("blipcalc.posteriors.blip", "bayesianize"),
    "calibrate": ("blipcalc.calibration.fit", "calibrate"),
    "check_reference": ("blipcalc.monitor.fit_limits", "check_reference"),
    "closest_distances": ("blipcalc.core.domain", "closest_distances"),
    "committee": ("blipcalc.adapters.committee", "committee"),
    "dihedral_scan": ("blipcalc.properties.scans", "dihedral_scan"),
    "dimer_scan": ("blipcalc.properties.scans", "dimer_scan"),
    "distance_scan": ("blipcalc.properties.scans", "distance_scan"),
    "elastic_constants": ("blipcalc.properties.elastic", "elastic_constants"),
    "energy_difference": ("blipcalc.properties.energy_differences", "energy_difference"),
    "equation_of_state": ("blipcalc.properties.equation_of_state", "equation_of_state"),
    "evaluate": ("blipcalc.calibration.evaluation", "evaluate_model"),
    "freeze": ("blipcalc.calculators.snapshot", "snapshot"),
    "independent_runs": ("blipcalc.averages.independent_runs", "independent_runs"),
    "ipi_extras": ("blipcalc.calculators.result_names", "ipi_extras"),
    "load": ("blipcalc.model_file.model_file", "load_model"),
    "mace_results": ("blipcalc.calculators.result_names", "mace_results"),
    "phonons": ("blipcalc.properties.phonons", "phonons"),
    "read": ("blipcalc.io", "read"),
    "relax": ("blipcalc.relaxation.relax", "relax"),
    "run_md": ("blipcalc.md.run_md", "run_md"),
    "train": ("blipcalc.training.train", "train"),
    "vacancy_energy": ("blipcalc.properties.energy_differences", "vacancy_energy"),
    "vibrations": ("blipcalc.properties.vibrations", "vibrations"),
    "write": ("blipcalc.io", "write"),
    "write_report": ("blipcalc.report.page", "write_report"),
}

__all__ = [
    "AskReference",
    "BaselineFallback",
    "BayesianCalculator",
    "Calibration",
    "CombinedCalculator",
    "Graph",
    "LabelAudit",
    "Limits",
    "Patient",
    "Prediction",
    "Record",
    "ReferenceOnDemand",
    "RollBack",
    "TooClose",
    "UncertaintyMonitor",
    "adsorption_energy",
    "average",
    "barrier",
    "bayesianize",
    "calibrate",
    "check_reference",
    "closest_distances",
    "committee",
    "dihedral_scan",
    "dimer_scan",
    "distance_scan",
    "elastic_constants",
    "energy_difference",
    "equation_of_state",
    "evaluate",
    "freeze",
    "independent_runs",
    "ipi_extras",
    "load",
    "mace_results",
    "phonons",
    "read",
    "relax",
    "run_md",
    "train",
    "vacancy_energy",
    "vibrations",
    "write",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'blipcalc' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
