"""Checksums of files that grow part by part: which parts are as they were written, and a file that ends before the damage.

Beside ``run.traj`` stands ``run.traj.sums`` with one line for each part that was added:

    number  start  stop  item  index  CRC-32 of the bytes from start to stop  CRC-32 of this line

A part of a ``.traj`` is a frame: ``item`` is the place of its description, and ``index`` that of the table of places that was
begun behind it, if one was (ASE writes frames one after the other, and a table of 42 times the size whenever the last is full:
``ase.io.ulm``).  Head and tables change as frames are added; they are left out of the sums, since they follow from the
places.  So every byte of the file is either summed or known.  A part of a text file is what was added at once.

A file that is longer than its sums was killed between the two, or was added to by somebody else: the rest is not vouched for.
A CRC-32 finds every flipped bit and every burst of up to 32; it is no protection against intent.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from blipcalc.errors import DamagedFileError
from blipcalc.files.row_seals import verify_rows
from blipcalc.files.safetensors_file import write_atomically

SUFFIX, DAMAGED = ".sums", ".damaged"
#: bytes of a line of sums at most, and of a file that are read at once
LINE, BLOCK = 160, 2**20
#: of a ``.traj``: its head ends with how many items there are, where the table is, and a table of one
HEAD, COUNTS, ITEMS = 56, 32, 42


@dataclass(frozen=True)
class Part:
    """One part of a file, see the module; item and index are 0 where there are none."""

    number: int
    start: int
    stop: int
    item: int = 0
    index: int = 0
    crc: int = 0

    @property
    def changing(self) -> tuple[tuple[int, int], ...]:
        """(from, to) of its bytes that change as later parts are added."""
        head = ((COUNTS, HEAD),) if self.item and self.number == 0 else ()
        return (*head, (self.index, self.stop)) if self.index else head

    def line(self) -> str:
        """As it is written."""
        text = f"{self.number} {self.start} {self.stop} {self.item} {self.index} {self.crc:08x}"
        return f"{text} {zlib.crc32(text.encode()):08x}\n"


@dataclass(frozen=True)
class Findings:
    """What the sums say of a file.

    parts : those that the sums know
    damaged : numbers of those that are not as they were written, or not there
    is_ordered : whether the head and the tables of places fit the parts
    are_sums_whole : whether the sums themselves are as they were written
    n_beyond : bytes behind the last part that is known
    """

    parts: tuple[Part, ...]
    damaged: tuple[int, ...]
    is_ordered: bool
    are_sums_whole: bool
    n_beyond: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return self.is_ordered and self.are_sums_whole and not self.damaged

    @property
    def n_good(self) -> int:
        """How many of the first parts are as they were written."""
        return min(self.damaged, default=len(self.parts))

    def __str__(self) -> str:
        found = [f"{len(self.damaged)} of {len(self.parts)} parts are damaged, the first is {self.n_good}"]
        wrong = [*(found if self.damaged else []), *([] if self.is_ordered else ["its table of contents is damaged"])]
        wrong += [] if self.are_sums_whole else [f"its checksums are damaged behind part {len(self.parts) - 1}"]
        return "; ".join(wrong) or f"{len(self.parts)} parts are as they were written"


def sums_of(path: str | Path) -> Path:
    """The file with the sums of a file."""
    return Path(f"{path}{SUFFIX}")


def add_sums(path: str | Path) -> None:
    """Take in what a file holds behind the last part that its sums know; all of it where there are none yet."""
    path = Path(path)
    sums = sums_of(path)
    last = _last(sums)
    with path.open("rb") as file:
        found = [replace(part, crc=_crc(file, part)) for part in _new_parts(path, file, last)]
    with sums.open("a", encoding="ascii") as stream:
        stream.write("".join(part.line() for part in found))


def n_parts(path: str | Path) -> int:
    """How many parts of a file its sums know; 0 where there are none, or no file."""
    last = _last(sums_of(path)) if Path(path).is_file() else None
    return 0 if last is None else last.number + 1


def forget_sums(path: str | Path) -> None:
    """Remove them, before the file itself is replaced."""
    sums_of(path).unlink(missing_ok=True)


def inspect(path: str | Path) -> Findings:
    """Compare a file with its sums.

    raises : DamagedFileError where there is no such file, or none with sums
    """
    path = Path(path)
    if not path.is_file() or not sums_of(path).is_file():
        raise DamagedFileError(
            f"{path} or its checksums ({sums_of(path).name}) are not there: nothing can be said of it"
        )
    parts, is_whole = _read(sums_of(path))
    with path.open("rb") as file:
        known = [(at, expected, _bytes(file, at, len(expected))) for at, expected in _known_bytes(parts)]
        # after head and tables: who adds to the file meanwhile makes it longer before he changes them
        size = path.stat().st_size
        n_beyond = max(0, size - (parts[-1].stop if parts else 0))
        is_ordered = all(_agrees(*each, bool(n_beyond)) for each in known)
        damaged = tuple(p.number for p in parts if p.stop > size or _crc(file, p) != p.crc)
    return Findings(tuple(parts), damaged, is_ordered, is_whole, n_beyond)


def verify(path: str | Path) -> None:
    """Raise :class:`DamagedFileError` where a file is not as its sums say, or a database not as its seals; others pass."""
    path = Path(path)
    if path.suffix == ".db" and path.is_file():
        verify_rows(path)
    if sums_of(path).is_file() and not (found := inspect(path)).is_whole:
        raise DamagedFileError(
            f"{path}: {found}. 'blipcalc repair {path}' keeps what comes before the damage; if the file was replaced on "
            f"purpose, remove {sums_of(path).name}"
        )


def cut(path: str | Path, n_parts: int) -> None:
    """Leave the first parts of a file alone; with none of them the file goes.  A kill on the way leaves a longer file."""
    path = Path(path)
    kept = _read(sums_of(path))[0][:n_parts]
    if not kept:
        path.unlink(missing_ok=True)
        forget_sums(path)
        return
    write_atomically(sums_of(path), "".join(part.line() for part in kept).encode())
    with path.open("r+b") as file:
        for at, expected in _known_bytes(kept):
            file.seek(at)
            file.write(expected)
        file.truncate(kept[-1].stop)
        file.flush()
        os.fsync(file.fileno())


def repair(path: str | Path) -> Findings:
    """Keep what comes before the damage; the damaged file stays beside it as ``….damaged``, an older one as it is.

    Returns
    -------
    what was found; a whole file is not touched
    """
    path = Path(path)
    found = inspect(path)
    if found.is_whole:
        return found
    copy = path.with_name(f".{path.name}.repair")
    copy.write_bytes(path.read_bytes())
    sums_of(copy).write_text("".join(part.line() for part in found.parts), encoding="ascii")
    cut(copy, found.n_good)
    set_aside(path)
    for new, old in ((copy, path), (sums_of(copy), sums_of(path))):
        if new.exists():
            new.replace(old)
        else:
            old.unlink(missing_ok=True)
    return found


def set_aside(path: Path) -> None:
    """Rename a damaged file to ``….damaged``, or ``….damaged.2``, …: what was set aside is never overwritten."""
    aside, k = Path(f"{path}{DAMAGED}"), 1
    while aside.exists():
        k += 1
        aside = Path(f"{path}{DAMAGED}.{k}")
    path.replace(aside)


def _new_parts(path: Path, file: BinaryIO, last: Part | None) -> Iterator[Part]:
    """The parts behind one, without their sums."""
    number, start = (0, 0) if last is None else (last.number + 1, last.stop)
    if path.suffix != ".traj":
        size = path.stat().st_size
        if size > start:
            yield Part(number, start, size)
        return
    n_items, table = _numbers(file, COUNTS, 2)
    for item in _numbers(file, table + 8 * number, n_items - number):
        end = item + 8 + _numbers(file, item, 1)[0]
        index = -(-end // 8) * 8 if number and _is_full(number) else 0
        stop = index + 8 * ITEMS * number if index else end
        yield Part(number, start, stop, item, index)
        number, start = number + 1, stop


def _is_full(n_items: int) -> bool:
    """Whether so many items fill a table: 1, 42, 42² …"""
    while n_items % ITEMS == 0:
        n_items //= ITEMS
    return n_items == 1


def _known_bytes(parts: Sequence[Part]) -> Iterator[tuple[int, bytes]]:
    """(place, bytes) of head and tables of a ``.traj`` with these parts; of other files nothing."""
    if not parts or not parts[0].item:
        return
    items, tables = [part.item for part in parts], [part for part in parts if part.index]
    # the head first: one that is written before the tables names no frame that they do not
    yield COUNTS, struct.pack("<3q", len(parts), tables[-1].index if tables else HEAD - 8, items[0])
    for part in tables:
        size = (part.stop - part.index) // 8
        held = items[:size]
        yield part.index, struct.pack(f"<{size}q", *held, *[0] * (size - len(held)))


def _bytes(file: BinaryIO, at: int, n: int) -> bytes:
    file.seek(at)
    return file.read(n)


def _agrees(at: int, expected: bytes, found: bytes, has_more: bool) -> bool:
    """Whether head or table are as expected; in a file with more behind its sums only as far as those reach."""
    if not has_more or len(found) < len(expected):
        return found == expected
    pairs = zip(struct.iter_unpack("<q", found), struct.iter_unpack("<q", expected), strict=True)
    if at == COUNTS:
        (count, table, first), (least, _, item) = (struct.unpack("<3q", data) for data in (found, expected))
        return count >= least and table > 0 and first == item
    return all(new == old or old == (0,) for new, old in pairs)


def _crc(file: BinaryIO, part: Part) -> int:
    """Of the bytes of a part, those that change taken for zeros."""
    file.seek(part.start)
    at, crc = part.start, 0
    while at < part.stop:
        block = bytearray(file.read(min(BLOCK, part.stop - at)))
        if not block:
            return -1
        for low, high in part.changing:
            low, high = max(low, at) - at, min(high, at + len(block)) - at
            if low < high:
                block[low:high] = bytes(high - low)
        crc = zlib.crc32(block, crc)
        at += len(block)
    return crc


def _numbers(file: BinaryIO, at: int, n: int) -> tuple[int, ...]:
    """So many integers of 8 bytes."""
    file.seek(at)
    return struct.unpack(f"<{n}q", file.read(8 * n))


def _read(sums: Path) -> tuple[list[Part], bool]:
    """The parts of a file of sums up to its first fault, and whether it has none; a last line cut short is no fault."""
    *lines, _ = sums.read_bytes().split(b"\n")
    parts: list[Part] = []
    for line in lines:
        part = _parsed(line)
        if part is None or (part.number, part.start) != (len(parts), parts[-1].stop if parts else 0):
            return parts, False
        parts.append(part)
    return parts, True


def _parsed(line: bytes) -> Part | None:
    """A line of sums; None where it is damaged."""
    text, _, crc = line.rpartition(b" ")
    if crc != f"{zlib.crc32(text):08x}".encode():
        return None
    *places, of_part = text.split(b" ")
    number, start, stop, item, index = map(int, places)
    return Part(number, start, stop, item, index, int(of_part, 16))


def _last(sums: Path) -> Part | None:
    """The last part that the sums know.  A line cut short is removed; a damaged one is an error."""
    if not sums.is_file():
        return None
    with sums.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LINE * 2))
        tail = file.read()
        whole = tail.rfind(b"\n") + 1
        file.truncate(size - len(tail) + whole)
    lines = tail[:whole].split(b"\n")
    if len(lines) < 2:
        return None
    part = _parsed(lines[-2])
    if part is None:
        raise DamagedFileError(f"the last line of {sums} is damaged; 'blipcalc repair' keeps what can be vouched for")
    return part
