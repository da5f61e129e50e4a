"""Access to the results of other calculators: the structure they are shown, checks of their answers, and outdated results.

**Results.**  All numbers of other calculators enter the package through :func:`ask`: energies as floats,
forces (n, 3), stresses in Voigt order, in float64 and as copies, or an error that names the calculator and the value.

**Outdated results.**  ASE compares elements, positions, cell, periodicity, initial charges and magnetic
moments; many calculators take total charge and spin, and more, from ``atoms.info``.  So results are outdated

* where :data:`ELECTRONS` in ``info`` have changed, for every calculator, even one that does not compare them;
* where another entry of ``info`` has changed and a part reports by its own ``check_state`` that it matters.

Notes that observers and files leave in ``info`` are not inputs: parts do not see them, and they cause no evaluation.
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

#: entries of ``info`` that runs write as notes, by name and by prefix
NOTES, NOTE_PREFIXES = ("step", "time_fs"), (PREFIX, "breach_")
#: entries of ``info`` that give total charge and spin to calculators
ELECTRONS = ("charge", "total_charge", "spin", "total_spin", "multiplicity", "spin_multiplicity", "uhf")
#: equal where a calculator has no electronic entropy, so one stands for the other
ENERGIES = ("energy", "free_energy")
#: derivatives first: some calculators compute only the requested property, and would start again for derivatives
ORDER = ("stress", "forces", "energies", "energy", "free_energy")


@runtime_checkable
class Answering(Protocol):
    """Anything that gives properties of a structure, such as any ASE calculator."""

    implemented_properties: list[str]

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return the property, computed where it is not known."""
        ...


@runtime_checkable
class Vouching(Protocol):
    """A calculator or predictor that reports whether its results hold for other entries of ``info``."""

    def changes(self, seen: Atoms | None, atoms: Atoms) -> list[str]:
        """Return the changes that matter, as :func:`changes`."""
        ...


def inputs(atoms: Atoms) -> dict[Any, Any]:
    """Return the entries of ``info`` that are inputs, not notes."""
    return {
        key: value for key, value in atoms.info.items() if key not in NOTES and not str(key).startswith(NOTE_PREFIXES)
    }


def shown(atoms: Atoms) -> Atoms:
    """Return the structure without constraints and notes, as other calculators see it; unchanged where it has neither."""
    given = inputs(atoms)
    if not atoms.constraints and len(given) == len(atoms.info):
        return atoms
    bare = atoms.copy()
    bare.set_constraint()
    bare.info = given
    return bare


def electrons(info: Mapping[Any, Any]) -> dict[str, Any]:
    """Return those entries of ``info`` that give total charge and spin."""
    return {key: info[key] for key in ELECTRONS if key in info}


def changes(seen: Atoms | None, atoms: Atoms, parts: Sequence[Any] = ()) -> list[str]:
    """Return ``["info"]`` where results of one structure do not hold for ``info`` of another, by the rule above; else nothing.

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
    """Return whether two dictionaries hold the same values; values that cannot be compared count as changed."""
    try:
        return bool(equal(dict(a), dict(b)))
    except (TypeError, ValueError):
        return False


def _minds(part: Any, seen: Atoms, now: Atoms) -> bool:
    """Return whether results of a part are outdated; a part that cannot tell counts as outdated."""
    if isinstance(part, Vouching):
        return bool(part.changes(seen, now))
    if not isinstance(part, BaseCalculator) or part.atoms is None:
        return True
    # the part may hold results of another structure by now: others use it too
    is_other = part.atoms is not seen and not _equal(inputs(part.atoms), inputs(seen))
    return is_other or bool(part.check_state(now))


def gives(part: Answering, key: str) -> bool:
    """Return whether a calculator has a property; ``energy`` and ``free_energy`` stand for each other."""
    return _own(part, key) in part.implemented_properties


def _own(part: Answering, key: str) -> str:
    """Return the name under which a calculator has a property."""
    if key in ENERGIES and key not in part.implemented_properties:
        return next((name for name in ENERGIES if name in part.implemented_properties), key)
    return key


def check_part(part: Any, name: str) -> None:
    """Raise :class:`ConfigurationError` for anything but an ASE calculator with energy and forces."""
    if isinstance(part, type) or not isinstance(part, Answering):
        raise ConfigurationError(f"{name}: expected an ASE calculator, got {part!r}")
    missing = [key for key in ("energy", "forces") if not gives(part, key)]
    if missing:
        raise ConfigurationError(f"{name} ({type(part).__name__}) gives no {', '.join(missing)}")


def ask(part: Answering, key: str, atoms: Atoms, compute: bool = True, *, name: str = "the calculator") -> Any:
    """Return a property of a calculator: a float, or a new float64 array, with stress in Voigt order.

    Parameters
    ----------
    key : energy, free_energy, energies, forces or stress
    atoms : passed on by :func:`shown`
    compute : False gives None for a property that is not known yet
    name : of the calculator, for messages

    Raises
    ------
    CalculatorResultError : a value of the wrong shape or type, naming the calculator and the value's
    NonFiniteError : NaN or infinity, naming the calculator
    Exception : any error of the calculator, with a note that names it
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
    """Return whether total charge or spin differ from a calculator's last structure; many calculators do not compare them."""
    if isinstance(part, Vouching) or not isinstance(part, BaseCalculator) or part.atoms is None:
        return False
    return not _equal(electrons(part.atoms.info), electrons(structure.info))


def _forget(part: BaseCalculator) -> None:
    """Clear the results of a calculator, as ASE does at a change that it notices."""
    part.atoms, part.results = None, {}
    if isinstance(part, LinearCombinationCalculator):
        for inner in part.mixer.calcs:
            _forget(inner)


def checked(value: Any, key: str, n: int, who: str) -> float | np.ndarray:
    """Return a property of n atoms as a float or a new float64 array, after the checks of :func:`ask`."""
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
