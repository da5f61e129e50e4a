"""Calculators of other people: what they are shown of a structure, what they say of it, and when that is out of date.

**One gate.**  :func:`ask` is the only way in which a foreign calculator's numbers come into the package: energies as floats,
forces (n, 3), stresses in Voigt order, in float64 and as copies, or an error that names the calculator and what it gave.

**One rule for results that are kept.**  ASE compares elements, positions, cell, periodicity, initial charges and magnetic
moments; many calculators take total charge and spin, and more, from ``atoms.info``.  So results hold no longer

* where :data:`ELECTRONS` in ``info`` have changed, for every calculator, also for one that does not look at them by itself;
* where another entry of ``info`` has changed and one of the parts says, by its own ``check_state``, that it matters.

Notes that observers and files leave in ``info`` are no inputs: no part is shown them, and they never cost an evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, equal
from ase.calculators.mixing import LinearCombinationCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from blipcalc.core.dropped_by_ase import PREFIX
from blipcalc.errors import CalculatorResultError, ConfigurationError, NonFiniteError

#: entries of ``info`` that runs write for a reader, by name and by beginning
NOTES, NOTE_PREFIXES = ("step", "time_fs"), (PREFIX, "breach_")
#: entries of ``info`` from which calculators take total charge and spin
ELECTRONS = ("charge", "total_charge", "spin", "total_spin", "multiplicity", "spin_multiplicity", "uhf")
#: properties of one number; either stands for the other where a calculator has no electronic entropy
ENERGIES = ("energy", "free_energy")
#: derivatives first: some calculators compute what they are asked for alone, and then all over again
ORDER = ("stress", "forces", "energies", "energy", "free_energy")


@runtime_checkable
class Answering(Protocol):
    """What can be asked for properties of a structure: any calculator of ASE."""

    implemented_properties: list[str]

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """The property, computed where it is not known."""
        ...


@runtime_checkable
class Vouching(Protocol):
    """A calculator or predictor that says whether its results hold for other entries of ``info``."""

    def changes(self, seen: Atoms | None, atoms: Atoms) -> list[str]:
        """As :func:`changes`."""
        ...


def inputs(atoms: Atoms) -> dict[Any, Any]:
    """The entries of ``info`` that are no notes."""
    return {
        key: value for key, value in atoms.info.items() if key not in NOTES and not str(key).startswith(NOTE_PREFIXES)
    }


def shown(atoms: Atoms) -> Atoms:
    """The structure as foreign calculators see it: without constraints and notes; itself where it has neither."""
    given = inputs(atoms)
    if not atoms.constraints and len(given) == len(atoms.info):
        return atoms
    bare = atoms.copy()
    bare.set_constraint()
    bare.info = given
    return bare


def electrons(info: Mapping[Any, Any]) -> dict[str, Any]:
    """Total charge and spin, as far as ``info`` says them."""
    return {key: info[key] for key in ELECTRONS if key in info}


def changes(seen: Atoms | None, atoms: Atoms, parts: Sequence[Any] = ()) -> list[str]:
    """``["info"]`` where results of one structure do not hold for ``info`` of another, by the rule of this module; else nothing.

    seen : the structure that the results belong to; None where there is none
    parts : calculators and predictors that the results come from
    """
    if seen is None or _equal(inputs(seen), inputs(atoms)):
        return []
    if not _equal(electrons(seen.info), electrons(atoms.info)):
        return ["info"]
    now = shown(atoms)
    return ["info"] if any(_minds(part, seen, now) for part in parts) else []


def _equal(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> bool:
    """Whether two dictionaries hold the same values; what cannot be compared counts as changed."""
    try:
        return bool(equal(dict(a), dict(b)))
    except (TypeError, ValueError):
        return False


def _minds(part: Any, seen: Atoms, now: Atoms) -> bool:
    """Whether a part says that it is another state to it; one that cannot say so is asked anew."""
    if isinstance(part, Vouching):
        return bool(part.changes(seen, now))
    if not isinstance(part, BaseCalculator) or part.atoms is None:
        return True
    # its own memory may be of another structure by now: others ask it too
    is_other = part.atoms is not seen and not _equal(inputs(part.atoms), inputs(seen))
    return is_other or bool(part.check_state(now))


def gives(part: Answering, key: str) -> bool:
    """Whether a calculator has a property; without electronic entropy energy and free energy are one."""
    return _own(part, key) in part.implemented_properties


def _own(part: Answering, key: str) -> str:
    """The name under which a calculator has a property."""
    if key in ENERGIES and key not in part.implemented_properties:
        return next((name for name in ENERGIES if name in part.implemented_properties), key)
    return key


def check_part(part: Any, name: str) -> None:
    """Refuse, with :class:`ConfigurationError`, what is no calculator, or one without energy or forces."""
    if isinstance(part, type) or not isinstance(part, Answering):
        raise ConfigurationError(f"{name}: expected an ASE calculator, got {part!r}")
    missing = [key for key in ("energy", "forces") if not gives(part, key)]
    if missing:
        raise ConfigurationError(f"{name} ({type(part).__name__}) gives no {', '.join(missing)}")


def ask(part: Answering, key: str, atoms: Atoms, compute: bool = True, *, name: str = "the calculator") -> Any:
    """A property that a calculator :func:`gives`: a float, or an array of its own in float64, stress in Voigt order.

    Parameters
    ----------
    key : energy, free_energy, energies, forces or stress
    atoms : shown to it as :func:`shown` says
    compute : False gives None for what it does not know already
    name : of the calculator, for messages

    Raises
    ------
    CalculatorResultError : a value of another shape or kind, naming the calculator and what came
    NonFiniteError : NaN or infinity, naming the calculator
    Exception : those of the calculator as they are, with a note that names it
    """
    who = f"{name} ({type(part).__name__})"
    structure = shown(atoms)
    try:
        if _overlooks(part, structure):
            _forget(part)
        value = part.get_property(_own(part, key), structure, allow_calculation=compute)
    except Exception as error:
        error.add_note(f"raised by {who} when it was asked for {key}")
        raise
    return None if value is None and not compute else checked(value, key, len(atoms), who)


def _overlooks(part: Answering, structure: Atoms) -> TypeGuard[BaseCalculator]:
    """Whether total charge or spin have changed since a calculator's last results, which many do not look at themselves."""
    if isinstance(part, Vouching) or not isinstance(part, BaseCalculator) or part.atoms is None:
        return False
    return not _equal(electrons(part.atoms.info), electrons(structure.info))


def _forget(part: BaseCalculator) -> None:
    """Have a calculator forget its results, as ASE does at a change that it sees."""
    part.atoms, part.results = None, {}
    if isinstance(part, LinearCombinationCalculator):
        for inner in part.mixer.calcs:
            _forget(inner)


def checked(value: Any, key: str, n: int, who: str) -> float | np.ndarray:
    """A property of n atoms as a float or a new array in float64; see :func:`ask`."""
    if isinstance(value, torch.Tensor):
        value = value.detach().to("cpu", torch.float64).numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise CalculatorResultError(f"{who} gave {key} that is no array: {error}") from error
    shape = {"energies": (n,), "forces": (n, 3), "stress": (6,)}.get(key, ())
    if array.dtype.kind not in "fiu":
        raise CalculatorResultError(
            f"{who} gave {key} of type {type(value).__name__} ({array.dtype}); expected real numbers of shape {shape}"
        )
    numbers = np.array(array, dtype=np.float64)
    if key in ENERGIES and numbers.shape in ((1,), (1, 1)):
        numbers = numbers.reshape(())
    if key == "stress" and numbers.shape == (3, 3):
        numbers = full_3x3_to_voigt_6_stress(numbers)
    if numbers.shape != shape:
        remedy = {
            "stress": " in Voigt order, or (3, 3)",
            "energy": " for the whole structure",
        }.get(key, f" for {n} atoms")
        raise CalculatorResultError(
            f"{who} gave {key} of shape {array.shape}; expected {shape}{remedy}: wrap it in a calculator that gives that"
        )
    if not np.isfinite(numbers).all():
        where = ""
        if key in ("forces", "energies"):
            bad = np.flatnonzero(~np.isfinite(numbers.reshape(n, -1)).all(axis=1))
            where = f" on atoms {bad[:10].tolist()}"
        raise NonFiniteError(f"{who} gave NaN or infinity for {key}{where}; are atoms too close to each other?")
    return numbers if shape else float(numbers)
