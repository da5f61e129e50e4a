"""Checksums of files that grow part by part: detection of damaged parts, and repair by keeping the parts before.

Beside ``run.traj`` there is ``run.traj.sums`` with one line for each added part:

    number  start  stop  item  index  CRC-32 of the bytes from start to stop  CRC-32 of this line

A part of a ``.traj`` is a frame: ``item`` is the offset of its description, and ``index`` that of the table of offsets started
after it, if any (ASE writes frames one after the other, and a table of 42 times the size whenever the last is full:
``ase.io.ulm``).  Head and tables change as frames are added; they are left out of the sums, since they follow from the
offsets.  So every byte of the file is either summed or known.  A part of a text file is one addition to it.

A file is longer than its sums after a kill between the two writes, or after additions by another program: the rest is not
verified.  A CRC-32 detects every flipped bit and every burst of up to 32; it does not protect against intent.
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
#: largest number of bytes of a line of sums, and of one read of a file
LINE, BLOCK = 160, 2**20
#: of a ``.traj``: length of the head, offset of its counts (number of items, offset of the table, first item), growth of tables
HEAD, COUNTS, ITEMS = 56, 32, 42


@dataclass(frozen=True)
class Part:
    """One part of a file, see the module; item and index are 0 where absent."""

    number: int
    start: int
    stop: int
    item: int = 0
    index: int = 0
    crc: int = 0

    @property
    def changing(self) -> tuple[tuple[int, int], ...]:
        """Ranges (from, to) of bytes that change as later parts are added."""
        head = ((COUNTS, HEAD),) if self.item and self.number == 0 else ()
        return (*head, (self.index, self.stop)) if self.index else head

    def line(self) -> str:
        """Return the line of sums of this part."""
        text = f"{self.number} {self.start} {self.stop} {self.item} {self.index} {self.crc:08x}"
        return f"{text} {zlib.crc32(text.encode()):08x}\n"


@dataclass(frozen=True)
class Findings:
    """Result of the comparison of a file with its sums.

    parts : parts in the sums
    damaged : numbers of changed or missing parts
    is_ordered : whether the head and the tables of offsets fit the parts
    are_sums_whole : whether the sums themselves are unchanged
    n_beyond : bytes after the last part in the sums
    """

    parts: tuple[Part, ...]
    damaged: tuple[int, ...]
    is_ordered: bool
    are_sums_whole: bool
    n_beyond: int

    @property
    def is_whole(self) -> bool:
        """Whether file and sums are undamaged."""
        return self.is_ordered and self.are_sums_whole and not self.damaged

    @property
    def n_good(self) -> int:
        """Number of first parts that are unchanged."""
        return min(self.damaged, default=len(self.parts))

    def __str__(self) -> str:
        found = [f"{len(self.damaged)} of {len(self.parts)} parts are damaged, the first is {self.n_good}"]
        wrong = [*(found if self.damaged else []), *([] if self.is_ordered else ["its table of contents is damaged"])]
        wrong += [] if self.are_sums_whole else [f"its checksums are damaged behind part {len(self.parts) - 1}"]
        return "; ".join(wrong) or f"{len(self.parts)} parts are as they were written"


def sums_of(path: str | Path) -> Path:
    """Return the path of the sums of a file."""
    return Path(f"{path}{SUFFIX}")


def add_sums(path: str | Path) -> None:
    """Add the sums of all bytes after the last summed part; of the whole file where it has no sums."""
    path = Path(path)
    sums = sums_of(path)
    last = _last(sums)
    with path.open("rb") as file:
        found = [replace(part, crc=_crc(file, part)) for part in _new_parts(path, file, last)]
    with sums.open("a", encoding="ascii") as stream:
        stream.write("".join(part.line() for part in found))


def n_parts(path: str | Path) -> int:
    """Return the number of parts of a file in its sums; 0 without sums or file."""
    last = _last(sums_of(path)) if Path(path).is_file() else None
    return 0 if last is None else last.number + 1


def forget_sums(path: str | Path) -> None:
    """Remove the sums, before the file itself is replaced."""
    sums_of(path).unlink(missing_ok=True)


def inspect(path: str | Path) -> Findings:
    """Compare a file with its sums.

    raises : DamagedFileError for a missing file, or one without sums
    """
    path = Path(path)
    if not path.is_file() or not sums_of(path).is_file():
        raise DamagedFileError(
            f"{path} or its checksums ({sums_of(path).name}) are not there: nothing can be said of it"
        )
    parts, is_whole = _read(sums_of(path))
    with path.open("rb") as file:
        known = [(at, expected, _bytes(file, at, len(expected))) for at, expected in _known_bytes(parts)]
        # after head and tables: an addition meanwhile makes the file longer before it changes them
        size = path.stat().st_size
        n_beyond = max(0, size - (parts[-1].stop if parts else 0))
        is_ordered = all(_agrees(*each, bool(n_beyond)) for each in known)
        damaged = tuple(p.number for p in parts if p.stop > size or _crc(file, p) != p.crc)
    return Findings(tuple(parts), damaged, is_ordered, is_whole, n_beyond)


def verify(path: str | Path) -> None:
    """Raise :class:`DamagedFileError` for a file that differs from its sums, or a database from its seals; pass others."""
    path = Path(path)
    if path.suffix == ".db" and path.is_file():
        verify_rows(path)
    if sums_of(path).is_file() and not (found := inspect(path)).is_whole:
        raise DamagedFileError(
            f"{path}: {found}. 'blipcalc repair {path}' keeps what comes before the damage; if the file was replaced on "
            f"purpose, remove {sums_of(path).name}"
        )


def cut(path: str | Path, n_parts: int) -> None:
    """Keep the first parts of a file alone; with none the file is removed.  A kill meanwhile leaves a longer file."""
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
    """Keep the parts before the damage, and the damaged file as ``….damaged``, without overwriting an older one.

    Returns
    -------
    the findings; an undamaged file is unchanged
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
    """Rename a damaged file to ``….damaged``, or ``….damaged.2``, …, without overwriting an older one."""
    aside, k = Path(f"{path}{DAMAGED}"), 1
    while aside.exists():
        k += 1
        aside = Path(f"{path}{DAMAGED}.{k}")
    path.replace(aside)


def _new_parts(path: Path, file: BinaryIO, last: Part | None) -> Iterator[Part]:
    """Yield the parts after the last summed one, without their sums."""
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
    """Return whether a number of items fills a table: 1, 42, 42² …"""
    while n_items % ITEMS == 0:
        n_items //= ITEMS
    return n_items == 1


def _known_bytes(parts: Sequence[Part]) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of head and tables of a ``.traj`` with these parts; nothing of other files."""
    if not parts or not parts[0].item:
        return
    items, tables = [part.item for part in parts], [part for part in parts if part.index]
    # head first: a head written before the tables names no frame that they lack
    yield COUNTS, struct.pack("<3q", len(parts), tables[-1].index if tables else HEAD - 8, items[0])
    for part in tables:
        size = (part.stop - part.index) // 8
        held = items[:size]
        yield part.index, struct.pack(f"<{size}q", *held, *[0] * (size - len(held)))


def _bytes(file: BinaryIO, at: int, n: int) -> bytes:
    file.seek(at)
    return file.read(n)


def _agrees(at: int, expected: bytes, found: bytes, has_more: bool) -> bool:
    """Return whether head or table are as expected; in a file longer than its sums only as far as those reach."""
    if not has_more or len(found) < len(expected):
        return found == expected
    pairs = zip(struct.iter_unpack("<q", found), struct.iter_unpack("<q", expected), strict=True)
    if at == COUNTS:
        (count, table, first), (least, _, item) = (struct.unpack("<3q", data) for data in (found, expected))
        return count >= least and table > 0 and first == item
    return all(new == old or old == (0,) for new, old in pairs)


def _crc(file: BinaryIO, part: Part) -> int:
    """Return the CRC-32 of the bytes of a part, with zeros in place of changing bytes."""
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
    """Read n integers of 8 bytes at an offset."""
    file.seek(at)
    return struct.unpack(f"<{n}q", file.read(8 * n))


def _read(sums: Path) -> tuple[list[Part], bool]:
    """Return the parts in a file of sums up to its first fault, and whether it has none; an incomplete last line is no fault."""
    *lines, _ = sums.read_bytes().split(b"\n")
    parts: list[Part] = []
    for line in lines:
        part = _parsed(line)
        if part is None or (part.number, part.start) != (len(parts), parts[-1].stop if parts else 0):
            return parts, False
        parts.append(part)
    return parts, True


def _parsed(line: bytes) -> Part | None:
    """Return the part in a line of sums; None for a damaged line."""
    text, _, crc = line.rpartition(b" ")
    if crc != f"{zlib.crc32(text):08x}".encode():
        return None
    *places, of_part = text.split(b" ")
    number, start, stop, item, index = map(int, places)
    return Part(number, start, stop, item, index, int(of_part, 16))


def _last(sums: Path) -> Part | None:
    """Return the last part in the sums; an incomplete line is removed, a damaged one is an error."""
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
