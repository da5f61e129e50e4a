"""Signatures of predictors and calculators, which decide for restarts, derived quantities and files whether two are the same.

An object that declares an :class:`~blipcalc.core.identity.Identity` is recognised by it.  Any other, such as one of a derived
class, is recognised by its class, its parameters and its numbers on a probe, a structure made from that of the run: parameters
may lie anywhere in a calculator, but they show in its energies and forces.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.mixing import LinearCombinationCalculator

from blipcalc.core.identity import Identified, Identity
from blipcalc.core.predictor_contract import Need
from blipcalc.errors import StructureError

#: Å, displacement of the atoms of a probe: by symmetry, forces of a structure may be zero for every potential
SHIFT = 0.02
#: allowed difference of two answers of one calculator, relative to the largest number of the same quantity; rounding is
#: smaller, even in float32
TOLERANCE = 1e-5
#: an earlier answer may differ by SCATTER times the largest difference among ANSWERS repeated ones
SCATTER, ANSWERS = 10.0, 3
#: number of sums with fixed random weights that are kept of an array of numbers on a probe
SUMS = 4
VARIANCES = ("energy_var", "forces_var")

Numbers = Mapping[str, Mapping[str, list[float | None]]]


@dataclass(frozen=True)
class Signature:
    """Signature of a predictor or a calculator.

    name : SHA-256 over all declared identities, its own and those of its parts
    numbers : {part without an identity: {quantity: numbers on the probe, eV and Å; None for what is not finite}}
    """

    name: str
    numbers: Numbers = field(default_factory=dict)

    def __str__(self) -> str:
        """Return SHA-256 over both, numbers with four digits."""
        rounded = {
            part: {key: [None if x is None else f"{x:.3e}" for x in values] for key, values in of_part.items()}
            for part, of_part in self.numbers.items()
        }
        return _hash(f"{self.name} {rounded!r}") if rounded else self.name


@dataclass(frozen=True)
class Difference:
    """Difference between two signatures.

    other : whether the signatures belong to different predictors or calculators
    reason : in words, also for numbers that scatter from call to call; empty where there is no difference
    """

    other: bool = False
    reason: str = ""


def probe_of(atoms: Atoms) -> Atoms:
    """Return the probe of a run: its structure with slightly displaced atoms."""
    probe = atoms.copy()
    probe.set_constraint()
    probe.positions += SHIFT * np.random.default_rng(0).standard_normal((len(probe), 3))
    return probe


def signature_of(thing: object, probe: Atoms) -> Signature:
    """Return the signature of a predictor or a calculator; parts without an identity are evaluated once."""
    names, numbers = [], {}
    for place, part, declared in _parts(thing, ""):
        names.append(f"{place} {declared or _class_of(part)}")
        if declared is None:
            numbers[f"{place} {type(part).__name__}".strip()] = _numbers(part, probe)
    return Signature(_hash("\n".join(names)), numbers)


def difference(then: Signature, now: Signature, again: Callable[[], Signature] | None = None) -> Difference:
    """Compare an earlier signature of a predictor or calculator with the present one.

    again : repeats the evaluation, so that differences are compared with the scatter of repeated answers; None: answers count as
        reproducible
    """
    if then.name != now.name or then.numbers.keys() != now.numbers.keys():
        return Difference(True, "its class, settings or weights are others")
    off = {part: _deviation(values, now.numbers[part]) for part, values in then.numbers.items()}
    off = {part: by for part, by in off.items() if by > TOLERANCE}
    if not off:
        return Difference()
    scatter, other = dict.fromkeys(off, 0.0), off
    for _ in range(ANSWERS):
        if again is None:
            break
        once_more = again().numbers
        scatter = {part: max(by, _deviation(now.numbers[part], once_more[part])) for part, by in scatter.items()}
        other = {part: by for part, by in off.items() if not by <= SCATTER * scatter[part]}
        if not other:
            break
    if other:
        by = ", ".join(f"{part} by {by:.2g}" for part, by in other.items())
        return Difference(True, f"energy, forces or variances on a probe structure differ (relative): {by}")
    by = ", ".join(f"{part} by {scatter[part]:.2g}" for part in off)
    return Difference(False, f"two answers to the same question differ by themselves (relative): {by}")


def same(one: object, other: object, probe: Atoms) -> bool:
    """Return whether two predictors or calculators are the same object, or have equal signatures."""
    return one is other or not difference(signature_of(one, probe), signature_of(other, probe)).other


def _parts(thing: object, place: str) -> Iterator[tuple[str, object, str | None]]:
    """Yield (place, part, declared identity or None) of a predictor or calculator and of all its parts."""
    declared = _declared(thing)
    yield place, thing, None if declared is None else declared.name
    for k, part in enumerate(() if declared is None else declared.parts):
        yield from _parts(part, f"{place}/{k}")
    for k, part in enumerate(() if declared is None else declared.on_demand):
        yield f"{place}/on demand {k}", part, _class_of(part)


def _declared(thing: object) -> Identity | None:
    if thing is None:
        return Identity("nothing")
    # an identity holds for the declaring class only: a derived class may compute anything, so it is evaluated
    if "identity" in vars(type(thing)) and isinstance(thing, Identified):
        return thing.identity
    of_ase = type(thing).__module__ == LinearCombinationCalculator.__module__
    if of_ase and isinstance(thing, LinearCombinationCalculator):
        return Identity(f"{type(thing).__name__} {thing.mixer.weights!r}", tuple(thing.mixer.calcs))
    return None


def _class_of(thing: object) -> str:
    """Return class and parameters as text, without memory addresses."""
    parameters = dict(thing.parameters) if isinstance(thing, BaseCalculator) else {}
    return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(thing).__qualname__} {parameters!r}")


def _numbers(thing: object, probe: Atoms) -> dict[str, list[float | None]]:
    """Return {quantity: numbers} of a calculator or predictor on a probe; empty where it refuses the structure."""
    try:
        answers = _of_calculator(thing, probe) if isinstance(thing, BaseCalculator) else _of_predictor(thing, probe)
    except StructureError:
        return {}
    return {key: _summed(np.asarray(value, dtype=np.float64)) for key, value in answers.items() if value is not None}


def _of_calculator(calculator: BaseCalculator, probe: Atoms) -> dict[str, Any]:
    calculator.atoms, calculator.results = None, {}  # forces a new evaluation
    keys = ("energy", "forces", *VARIANCES)
    return {key: calculator.get_property(key, probe) for key in keys if key in calculator.implemented_properties}


def _of_predictor(predictor: Any, probe: Atoms) -> dict[str, Any]:
    (found,) = predictor([probe], Need(samples=True))
    answers = {key: getattr(found, key) for key in ("energy", "forces", *VARIANCES, "draw_deviations")}
    return answers if found.samples is None else answers | {"draws": found.samples.forces}


def _summed(values: np.ndarray) -> list[float | None]:
    """Return a number unchanged, or of an array its root mean square and sums with random weights."""
    if values.ndim:
        weights = np.random.default_rng(0).standard_normal((SUMS, values.size)) / np.sqrt(max(values.size, 1))
        values = np.array([np.sqrt(np.mean(values**2)), *(weights @ values.ravel())])
    return [float(x) if np.isfinite(x) else None for x in np.atleast_1d(values)]


def _deviation(then: Mapping[str, list[float | None]], now: Mapping[str, list[float | None]]) -> float:
    """Return the largest relative deviation between numbers of one part.

    It is infinite where quantities or finiteness differ, and zero where the part refused the probe.
    """
    if not then or not now:
        return 0.0
    if then.keys() != now.keys():
        return np.inf
    found = 0.0
    for key, values in then.items():
        one, other = (np.array(x, dtype=float) for x in (values, now[key]))
        if one.shape != other.shape or (np.isnan(one) != np.isnan(other)).any():
            return np.inf
        scale = max(np.nanmax(np.abs([one, other]), initial=0.0), 1e-300)
        found = max(found, float(np.nanmax(np.abs(one - other), initial=0.0) / scale))
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
