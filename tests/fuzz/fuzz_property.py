"""What every input must meet: a finite result, or an error with a name and a message; soon, and nothing half done."""

from __future__ import annotations

import math
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError

from blipcalc.errors import BlipcalcError

#: seconds of the processor that one input may take, however busy the machine is
LONGEST = 10.0
NAMED = (BlipcalcError, PropertyNotImplementedError)


@dataclass(frozen=True)
class Outcome:
    """What became of an input: ``result``, the name of an error, or a defect."""

    kind: str
    seconds: float
    defect: str = ""


def outcome(target: Callable[[], Any], folder: Path) -> Outcome:
    """Try one input."""
    began, defect, kind = time.process_time(), "", "result"
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            bad = [name for name, value in numbers_of(target()) if not math.isfinite(value)]
            defect = f"silent: {bad[0]} is not finite" if bad else ""
        except NAMED as error:
            kind = type(error).__name__
            defect = "" if str(error).strip() else f"{kind} without a message"
        except Exception as error:
            lines = traceback.extract_tb(error.__traceback__)
            ours = [line for line in lines if "/blipcalc/" in line.filename] or lines
            where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            defect = f"{type(error).__name__} at {where}: {str(error)[:120]}"
    seconds = time.process_time() - began
    left = [path.name for path in folder.rglob(".*") if path.name.endswith((".tmp", ".cut")) or path.is_dir()]
    if not defect and left:
        defect = f"left behind: {left}"
    if not defect and seconds > LONGEST:
        defect = f"took {seconds:.0f} s"
    return Outcome("defect" if defect else kind, seconds, defect)


def numbers_of(value: Any, name: str = "result") -> Iterator[tuple[str, float]]:
    """(name, number) of every number in a nest of dictionaries, lists and arrays; one stands for an array."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers_of(part, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for k, part in enumerate(value):
            yield from numbers_of(part, f"{name}[{k}]")
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in "fc" and value.size:
            yield name, 0.0 if np.isfinite(value).all() else math.nan
    elif isinstance(value, (float, np.floating)):
        yield name, float(value)
