"""Inputs that nobody should give: structures, settings and bytes, from one seed each or from Hypothesis.

Generators ask a source for choices, so that the same code serves both: seeded numpy for many inputs, Hypothesis for few that are
made small when they fail.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixCom

NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-300, 5e-324, 1e-12, 1e-3, 1e3, 1e6, 1e10, 1e100, 1e300, np.nan, np.inf, -np.inf)
#: what stands where a number, a name or a list is expected
ODD = (
    0, -1, 1, 2, 3, 10**30, 0.5, 2.5, -1.5, 1e-300, 1e300, float("nan"), float("inf"), True, False, None, "", "x", "16",
    "mean", b"x", (), [], [1], [0.5, 0.7], {}, {"H": 1.0}, {"": 1}, np.float32(1.0), np.int64(2), np.array([1, 2]),
    np.array(1.0), object(), complex(1, 1), Atoms("H"), Exception, lambda *a: None,
)  # fmt: skip


#: contents, and words, that belong to no file of ours
WRONG = (b"{}", b"[]", b"null", b"1e999", b"\n", b"\x00" * 64, b"[" * 5000, "é\n".encode("latin-1"), b"a,b\n1,2\n")
NO_WORDS = (b"nan", b"inf", b"1e400", b"-1", b"9" * 400, b"", b"x", b"null", b"1e308")


class Source(Protocol):
    """Where choices come from."""

    def whole(self, low: int, high: int) -> int:
        """low ≤ a whole number ≤ high."""
        ...


class Seeded:
    """Choices from a seed."""

    def __init__(self, *seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def whole(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))


class Drawn:
    """Choices of Hypothesis."""

    def __init__(self, data: Any, strategies: Any) -> None:
        self._data, self._strategies = data, strategies

    def whole(self, low: int, high: int) -> int:
        return self._data.draw(self._strategies.integers(low, high))


def one(source: Source, options: Any) -> Any:
    """One of them."""
    return options[source.whole(0, len(options) - 1)]


def often(source: Source, percent: int) -> bool:
    """True so often."""
    return source.whole(1, 100) <= percent


def generator(source: Source) -> np.random.Generator:
    """For arrays."""
    return np.random.default_rng(source.whole(0, 2**31 - 1))


def cell(source: Source) -> np.ndarray:
    """(3, 3) Å: sound, singular, left-handed, tiny, flat, huge, not finite, or nothing."""
    rng = generator(source)
    sound = np.diag(rng.uniform(3.0, 8.0, 3)) + rng.normal(scale=0.3, size=(3, 3))
    match source.whole(0, 9):
        case 0:
            return np.zeros((3, 3))
        case 1:
            sound[1] = sound[0] * one(source, (1.0, -2.0, 1.0 + 1e-9))
        case 2:
            sound[0] *= -1.0
        case 3:
            sound *= 10.0 ** -source.whole(0, 12)
        case 4:
            sound[2] *= 10.0 ** source.whole(-12, 12)
        case 5:
            sound *= 10.0 ** source.whole(1, 300)
        case 6:
            sound[source.whole(0, 2), source.whole(0, 2)] = one(source, NUMBERS)
        case 7:
            sound[1] = sound[0] + 10.0 ** -source.whole(0, 9) * sound[1]
    return sound


def positions(source: Source, n: int) -> np.ndarray:
    """(n, 3) Å: most of them sound."""
    rng = generator(source)
    r = rng.uniform(0.0, 4.0, (n, 3))
    match source.whole(0, 11):
        case 0 if n:
            r[source.whole(0, n - 1), source.whole(0, 2)] = one(source, NUMBERS)
        case 1 if n > 1:
            r[0] = r[-1] + one(source, (0.0, 1e-16, 1e-12, 1e-6, 1e-4, 0.01, 0.1))
        case 2:
            r *= 10.0 ** source.whole(-300, 300)
        case 3:
            r += one(source, NUMBERS)
        case 4:
            r[:] = 0.0
    return r


def structure(source: Source, elements: tuple[int, ...] = (1, 6, 8)) -> Atoms:
    """0 to 8 atoms; about half of all structures can be evaluated."""
    n = one(source, (0, 1, 2, 2, 3, 3, 4, 5, 6, 8))
    rng = generator(source)
    numbers = rng.choice(elements, n)
    if n and often(source, 10):
        numbers[source.whole(0, n - 1)] = one(source, (0, 2, 79, 118, 119, 500, -1))
    with np.errstate(all="ignore"):
        atoms = Atoms("H" * n, positions=positions(source, n), cell=cell(source) if often(source, 70) else None)
    atoms.arrays["numbers"] = numbers
    atoms.pbc = [bool(source.whole(0, 1)) for _ in range(3)] if often(source, 60) else False
    if n and often(source, 10):
        atoms.set_constraint(
            one(source, (FixAtoms([0]), FixCartesian(0), FixCartesian(0, [True, False, False]), FixCom()))
        )
    if often(source, 10):
        atoms.arrays["momenta"] = one(source, NUMBERS) * rng.normal(size=(n, 3))
    if often(source, 8):
        _deform(source, atoms)
    if often(source, 15):
        key = one(source, ("a", 1, "blip_n_draws", "blip_atom_std", "blip_samples", "energy", "charge", "spin", "step"))
        atoms.info[key] = one(source, ODD)
    return atoms


def _deform(source: Source, atoms: Atoms) -> None:
    """Arrays of another type or shape, as code that writes into ``atoms.arrays`` leaves them."""
    n, kind = len(atoms), one(source, ("float32", "int64", "complex128", "object", "U8", "float16", "bool"))
    name = one(source, ("positions", "numbers", "momenta", "masses", "tags", "x"))
    shape = one(source, ((n,), (n, 2), (n + 1, 3), (max(n - 1, 0), 3), (n, 3, 3), (0, 3), ()))
    if name in atoms.arrays and often(source, 50):
        with np.errstate(all="ignore"):
            atoms.arrays[name] = atoms.arrays[name].astype(kind)
    else:
        atoms.arrays[name] = np.ones(shape, dtype=kind if kind != "U8" else "float64")


def settings(source: Source, sound: dict[str, Any], odd: tuple[Any, ...] = ODD, most: int = 2) -> dict[str, Any]:
    """Sound settings, of which one or two are something else."""
    given = dict(sound)
    for _ in range(source.whole(0, most)):
        given[one(source, sorted(given))] = one(source, odd)
    return given


def damaged(source: Source, content: bytes) -> bytes:
    """Bytes cut, flipped, overwritten, doubled, emptied, or of something else."""
    rng, raw = generator(source), bytearray(content)
    match source.whole(0, 8):
        case 0:
            return b""
        case 1:
            return bytes(raw[: source.whole(0, len(raw))])
        case 2:
            for _ in range(source.whole(1, 4)):
                raw[source.whole(0, len(raw) - 1)] ^= 1 << source.whole(0, 7)
        case 3:
            at = source.whole(0, len(raw) - 1)
            raw[at : at + source.whole(1, 64)] = rng.bytes(source.whole(0, 64))
        case 4:
            raw += raw[source.whole(0, len(raw) - 1) :]
        case 5:
            return rng.bytes(source.whole(1, 300))
        case 6:
            return one(source, WRONG)
        case 7:
            return _numbers(source, bytes(raw))
    return bytes(raw)


def _numbers(source: Source, content: bytes) -> bytes:
    """A text in which one word is another number."""
    words = content.split(b" ") if b" " in content else content.split(b",")
    words[source.whole(0, len(words) - 1)] = one(source, NO_WORDS)
    return (b" " if b" " in content else b",").join(words)
