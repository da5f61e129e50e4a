"""Check of the number of atoms that extxyz frames declare, which ASE's reader omits."""

from __future__ import annotations

from pathlib import Path

from blipcalc.errors import DataError

SUFFIXES = (".xyz", ".extxyz")


def check_counts(path: str | Path) -> None:
    """Raise an error for a frame that declares more atoms than the file has bytes, which ASE would search for days."""
    path = Path(path)
    if path.suffix not in SUFFIXES or not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as stream:
        while line := stream.readline():
            try:
                n = int(line)
            except ValueError:
                return  # the reader reports the error
            if n > size:
                raise DataError(f"{path} announces a frame of {n:.3g} atoms, and has {size} bytes; it is damaged")
            for _ in range(n + 1):
                if not stream.readline():
                    return
