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
    from blipcalc.core.graph import Graph
    from blipcalc.core.prediction import Calibration, Prediction
    from blipcalc.io import read, write
    from blipcalc.md.run import run_md
    from blipcalc.monitor.observer import UncertaintyMonitor
    from blipcalc.training.run import train

__version__ = "0.1.0"

#: public name -> (module, attribute); loaded at first use, so that importing the package is instant
_PUBLIC = {
    "BayesianCalculator": ("blipcalc.calculator", "BayesianCalculator"),
    "Calibration": ("blipcalc.core.prediction", "Calibration"),
    "Graph": ("blipcalc.core.graph", "Graph"),
    "Prediction": ("blipcalc.core.prediction", "Prediction"),
    "UncertaintyMonitor": ("blipcalc.monitor.observer", "UncertaintyMonitor"),
    "bayesianize": ("blipcalc.bayes.blip", "bayesianize"),
    "calibrate": ("blipcalc.calibration.fit", "calibrate"),
    "committee": ("blipcalc.adapters.committee", "committee"),
    "evaluate": ("blipcalc.calibration.evaluation", "evaluate_model"),
    "load": ("blipcalc.checkpoint", "load_model"),
    "read": ("blipcalc.io", "read"),
    "run_md": ("blipcalc.md.run", "run_md"),
    "train": ("blipcalc.training.run", "train"),
    "write": ("blipcalc.io", "write"),
}

__all__ = [
    "BayesianCalculator",
    "Calibration",
    "Graph",
    "Prediction",
    "UncertaintyMonitor",
    "bayesianize",
    "calibrate",
    "committee",
    "evaluate",
    "load",
    "read",
    "run_md",
    "train",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'blipcalc' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
