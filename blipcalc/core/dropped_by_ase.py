"""Text in a structure for what ASE's file formats drop: arrays, constraints, ``info``, ``celldisp``.

| format | as ASE writes it | in the text |
|---|---|---|
| ``.traj`` | ``info`` | arrays that are not ASE's own |
| ``.db`` | nothing | the same arrays, ``info``, magnetic moments of three components |
| ``.xyz``, ``.extxyz`` | arrays in columns of 8 decimals, ``info`` that reads back equal, FixAtoms | all the rest |

and ``celldisp`` everywhere.  The text is ASE's JSON, percent-encoded, so that no reader interprets a part of it.  Values that it
cannot restore raise a named error; tuples return as lists, and objects with ``todict`` as their dictionaries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.constraints import FixAtoms, dict2constraint
from ase.io.extxyz import PROPERTY_NAME_MAP, key_val_dict_to_str, key_val_str_to_dict
from ase.io.jsonio import decode, encode

from blipcalc.core.constraints import stored
from blipcalc.errors import DataError

#: prefix of every name that this package adds to ``info`` and arrays
PREFIX = "blip_"
#: entry of ``info`` with the text
KEPT = f"{PREFIX}kept"
#: key in place of a dictionary whose keys are not all strings
ITEMS = "__items__"
#: arrays that ASE restores from all formats
OWN = ("numbers", "positions", "momenta", "masses", "tags", "initial_magmoms", "initial_charges")
TEXT = (".xyz", ".extxyz")
#: names with another meaning to readers of text
RESERVED = {*all_properties, *PROPERTY_NAME_MAP, *PROPERTY_NAME_MAP.values(), "species", "move_mask", "force", "virial"}
RESERVED |= {"Lattice", "Properties", "pbc", "numbers"}
#: allowed name of a column or an entry
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
#: decimals of a number in a column, and the largest loss by that relative to the largest number
DECIMALS, LOST = 8, 1e-4


def set_aside(atoms: Atoms, suffix: str) -> None:
    """Move what a format would drop or change into the text; raises DataError for values that no text can hold."""
    is_text = suffix in TEXT
    arrays = {n: v for n, v in atoms.arrays.items() if n not in OWN and not n.startswith(PREFIX)}
    if suffix == ".db" and atoms.get_initial_magnetic_moments().ndim > 1:
        arrays["initial_magmoms"] = atoms.arrays["initial_magmoms"]
    arrays = {name: values for name, values in arrays.items() if not (is_text and _fits_column(name, values))}
    info = {key: value for key, value in atoms.info.items() if not str(key).startswith(PREFIX)}
    for key, value in info.items():
        _check(f"info[{key!r}]", value)
    if is_text:
        info = {key: value for key, value in info.items() if not _survives(key, value)}
    elif suffix == ".traj":
        info = {key: value for key, value in info.items() if not isinstance(key, str)}
    constraints = [stored(constraint) for constraint in atoms.constraints]
    for said in constraints:
        _check(f"constraint {said['name']}", said)
    if is_text and constraints and not _is_plain(atoms):
        # a reader that does not know the text still sees the fixed atoms
        atoms.set_constraint([c for c in atoms.constraints if isinstance(c, FixAtoms)])
    else:
        constraints = []
    shift = atoms.get_celldisp().ravel()
    kept: dict[str, Any] = {
        "arrays": arrays,
        "info": list(info.items()),
        "constraints": constraints,
        "celldisp": shift if shift.any() else [],
    }
    for name in arrays:
        del atoms.arrays[name]
    for key in info:
        del atoms.info[key]
    kept = {name: value for name, value in kept.items() if len(value)}
    if kept:
        atoms.info[KEPT] = quote(encode(_packed(kept)), safe="{}[],:+-.")


def put_back(atoms: Atoms) -> None:
    """Restore in a structure the contents of its text; raises DataError for a text of another structure."""
    text = atoms.info.pop(KEPT, None)
    if text is None:
        return
    kept = _unpacked(decode(unquote(str(text)), always_array=False))
    for name, values in kept.get("arrays", {}).items():
        if len(values) != len(atoms):
            raise DataError(
                f"the array {name!r} that was kept is of {len(values)} atoms, the structure has {len(atoms)}; remove "
                f"info[{KEPT!r}] where atoms were added or taken away on purpose"
            )
        atoms.arrays[name] = np.array(values)
    atoms.info.update(dict(kept.get("info", [])))
    if "constraints" in kept:
        atoms.set_constraint([dict2constraint(said) for said in kept["constraints"]])
    if "celldisp" in kept:
        atoms.set_celldisp(kept["celldisp"])


def words_again(atoms: Atoms) -> None:
    """Restore arrays of strings, which readers of text return as objects."""
    for name, values in atoms.arrays.items():
        if values.dtype.kind == "O" and all(isinstance(word, str) for word in values.flat):
            atoms.arrays[name] = values.astype(str)


def _is_plain(atoms: Atoms) -> bool:
    """Return whether a text column can hold the constraints: fixed atoms only."""
    return len(atoms.constraints) == 1 and type(atoms.constraints[0]) is FixAtoms


def _fits_column(name: str, values: np.ndarray) -> bool:
    """Return whether text columns restore an array."""
    if name in RESERVED or not NAME.fullmatch(name) or values.dtype.kind not in "bifU" or not len(values):
        return False
    if values.ndim > 2 or (values.ndim == 2 and values.shape[1] < 2) or (len(values) == 1 and values.ndim == 2):
        return False
    if values.dtype.kind == "U":
        return all(re.fullmatch(r"[A-Za-z_][\w.+-]*", word, re.ASCII) for word in values.flat)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            return True
        return bool(np.abs(np.round(values, DECIMALS) - values).max() <= LOST * np.abs(values).max())
    return True


def _survives(key: Any, value: Any) -> bool:
    """Return whether the comment line of text restores an entry unchanged."""
    if not isinstance(key, str) or key in RESERVED or not NAME.fullmatch(key):
        return False
    if not isinstance(value, (str, bool, int, float, np.ndarray, np.generic)) or "\n" in str(value):
        return False
    try:
        found = key_val_str_to_dict(key_val_dict_to_str({key: value})).get(key)
    except (ValueError, TypeError, IndexError, KeyError):
        return False
    return _same(value, found)


def _check(name: str, value: Any) -> None:
    """Raise DataError for a value that JSON does not restore."""
    try:
        found = _unpacked(decode(encode(_packed(value)), always_array=False))
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise _lost(name, value) from error
    if not _same(value, found):
        raise _lost(name, value)


def _lost(name: str, value: Any) -> DataError:
    return DataError(
        f"{name} holds a {type(value).__name__}, which no file gives back as it is; expected numbers, words, arrays, lists and "
        "dictionaries of them: remove it, or store what it says"
    )


def _packed(value: Any) -> Any:
    """Return a value with string keys in all dictionaries, as JSON needs them."""
    if isinstance(value, Mapping):
        items = [(key, _packed(part)) for key, part in value.items()]
        return dict(items) if all(isinstance(key, str) for key in value) else {ITEMS: [list(item) for item in items]}
    if isinstance(value, (list, tuple)):
        return [_packed(part) for part in value]
    return value


def _unpacked(value: Any) -> Any:
    """Return the value of which :func:`_packed` made this."""
    if isinstance(value, dict):
        if set(value) == {ITEMS}:
            return {key: _unpacked(part) for key, part in value[ITEMS]}
        return {key: _unpacked(part) for key, part in value.items()}
    return [_unpacked(part) for part in value] if isinstance(value, list) else value


def _same(value: Any, found: Any) -> bool:
    """Return whether a value was restored: arrays bit for bit, lists for tuples, dictionaries for objects with ``todict``."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(found, np.generic):
        found = found.item()
    if isinstance(value, np.ndarray):
        return (
            isinstance(found, np.ndarray)
            and value.shape == found.shape
            and value.dtype.kind == found.dtype.kind
            and np.array_equal(value, found, equal_nan=value.dtype.kind in "fc")
        )
    if isinstance(value, Mapping):
        return (
            isinstance(found, Mapping)
            and list(value) == list(found)
            and all(_same(value[key], found[key]) for key in value)
        )
    if isinstance(value, (list, tuple)):
        return (
            isinstance(found, list)
            and len(value) == len(found)
            and all(_same(one, other) for one, other in zip(value, found, strict=True))
        )
    if isinstance(value, float) and value != value:
        return isinstance(found, float) and found != found
    if isinstance(value, (str, bool, int, float, complex, type(None))):
        return type(value) is type(found) and value == found
    return isinstance(found, Mapping) or value == found
