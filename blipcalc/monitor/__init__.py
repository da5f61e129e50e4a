"""Monitors of molecular dynamics: criteria and their limits, fault checks, and actions on a breach."""

from blipcalc.monitor.actions import AskReference, Record, RollBack
from blipcalc.monitor.audit import LabelAudit
from blipcalc.monitor.fault_checks import TooClose
from blipcalc.monitor.fit_limits import check_reference
from blipcalc.monitor.limits import Limits
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.monitor.run_criteria import ConsecutiveBreaches

__all__ = [
    "AskReference",
    "ConsecutiveBreaches",
    "LabelAudit",
    "Limits",
    "Record",
    "RollBack",
    "TooClose",
    "UncertaintyMonitor",
    "check_reference",
]
