"""blipcalc: molecular dynamics with machine-learned potentials that knows what it does not know."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blipcalc.adapters.committee import committee
    from blipcalc.bayes.blip import bayesianize
    from blipcalc.calculator import BayesianCalculator
    from blipcalc.calibration.evaluation import evaluate_model as evaluate
    from blipcalc.calibration.fit import calibrate
    from blipcalc.checkpoint import load_model as load
    from blipcalc.combined import CombinedCalculator
    from blipcalc.core.domain import closest_distances
    from blipcalc.core.graph import Graph
    from blipcalc.core.prediction import Calibration, Prediction
    from blipcalc.exchange import ipi_extras, mace_results
    from blipcalc.fallback import BaselineFallback
    from blipcalc.frozen import snapshot as freeze
    from blipcalc.io import read, write
    from blipcalc.md.run import run_md
    from blipcalc.monitor.actions import AskReference, Record, RollBack
    from blipcalc.monitor.audit import LabelAudit
    from blipcalc.monitor.channels import Patient
    from blipcalc.monitor.faults import TooClose
    from blipcalc.monitor.limits import Limits
    from blipcalc.monitor.observer import UncertaintyMonitor
    from blipcalc.monitor.reference import check_reference
    from blipcalc.observables.average import average
    from blipcalc.observables.differences import adsorption_energy, energy_difference, vacancy_energy
    from blipcalc.observables.elastic import elastic_constants
    from blipcalc.observables.equation_of_state import equation_of_state
    from blipcalc.observables.independent import independent_runs
    from blipcalc.observables.scans import dihedral_scan, dimer_scan, distance_scan
    from blipcalc.on_demand import ReferenceOnDemand
    from blipcalc.relaxation.paths import barrier
    from blipcalc.relaxation.phonons import phonons
    from blipcalc.relaxation.relax import relax
    from blipcalc.relaxation.vibrations import vibrations
    from blipcalc.report.page import write_report
    from blipcalc.training.run import train

__version__ = "0.1.0"

#: public name -> (module, attribute); loaded at first use, so that importing the package is instant
_PUBLIC = {
    "AskReference": ("blipcalc.monitor.actions", "AskReference"),
    "BaselineFallback": ("blipcalc.fallback", "BaselineFallback"),
    "BayesianCalculator": ("blipcalc.calculator", "BayesianCalculator"),
    "Calibration": ("blipcalc.core.prediction", "Calibration"),
    "CombinedCalculator": ("blipcalc.combined", "CombinedCalculator"),
    "Graph": ("blipcalc.core.graph", "Graph"),
    "LabelAudit": ("blipcalc.monitor.audit", "LabelAudit"),
    "Limits": ("blipcalc.monitor.limits", "Limits"),
    "Patient": ("blipcalc.monitor.channels", "Patient"),
    "Prediction": ("blipcalc.core.prediction", "Prediction"),
    "Record": ("blipcalc.monitor.actions", "Record"),
    "ReferenceOnDemand": ("blipcalc.on_demand", "ReferenceOnDemand"),
    "RollBack": ("blipcalc.monitor.actions", "RollBack"),
    "TooClose": ("blipcalc.monitor.faults", "TooClose"),
    "UncertaintyMonitor": ("blipcalc.monitor.observer", "UncertaintyMonitor"),
    "adsorption_energy": ("blipcalc.observables.differences", "adsorption_energy"),
    "average": ("blipcalc.observables.average", "average"),
    "barrier": ("blipcalc.relaxation.paths", "barrier"),
    "bayesianize": ("blipcalc.bayes.blip", "bayesianize"),
    "calibrate": ("blipcalc.calibration.fit", "calibrate"),
    "check_reference": ("blipcalc.monitor.reference", "check_reference"),
    "closest_distances": ("blipcalc.core.domain", "closest_distances"),
    "committee": ("blipcalc.adapters.committee", "committee"),
    "dihedral_scan": ("blipcalc.observables.scans", "dihedral_scan"),
    "dimer_scan": ("blipcalc.observables.scans", "dimer_scan"),
    "distance_scan": ("blipcalc.observables.scans", "distance_scan"),
    "elastic_constants": ("blipcalc.observables.elastic", "elastic_constants"),
    "energy_difference": ("blipcalc.observables.differences", "energy_difference"),
    "equation_of_state": ("blipcalc.observables.equation_of_state", "equation_of_state"),
    "evaluate": ("blipcalc.calibration.evaluation", "evaluate_model"),
    "freeze": ("blipcalc.frozen", "snapshot"),
    "independent_runs": ("blipcalc.observables.independent", "independent_runs"),
    "ipi_extras": ("blipcalc.exchange", "ipi_extras"),
    "load": ("blipcalc.checkpoint", "load_model"),
    "mace_results": ("blipcalc.exchange", "mace_results"),
    "phonons": ("blipcalc.relaxation.phonons", "phonons"),
    "read": ("blipcalc.io", "read"),
    "relax": ("blipcalc.relaxation.relax", "relax"),
    "run_md": ("blipcalc.md.run", "run_md"),
    "train": ("blipcalc.training.run", "train"),
    "vacancy_energy": ("blipcalc.observables.differences", "vacancy_energy"),
    "vibrations": ("blipcalc.relaxation.vibrations", "vibrations"),
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
