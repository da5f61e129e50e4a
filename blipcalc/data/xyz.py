"""What ASE's reader of extxyz does not check: how many atoms a frame announces."""

from __future__ import annotations

from pathlib import Path

from blipcalc.errors import DataError

SUFFIXES = (".xyz", ".extxyz")


def check_counts(path: str | Path) -> None:
    """Refuse a file with a frame of more atoms than the file has bytes; ASE would look for them behind its end, for days."""
    path = Path(path)
    if path.suffix not in SUFFIXES or not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as stream:
        while line := stream.readline():
            try:
                n = int(line)
            except ValueError:
                return  # the reader says what is wrong with it
            if n > size:
                raise DataError(f"{path} announces a frame of {n:.3g} atoms, and has {size} bytes; it is damaged")
            for _ in range(n + 1):
                if not stream.readline():
                    return
