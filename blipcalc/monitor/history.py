"""Keep the readings of a monitor's checks as a table."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from blipcalc.errors import DataError, UnknownKeyError
from blipcalc.files.checksums import add_sums, forget_sums, verify
from blipcalc.files.locks import adding
from blipcalc.files.safetensors_file import write_atomically

#: rows of a block: an array that grows by copying would leave freed holes of half its size in memory
BLOCK = 1024
#: checks at the beginning and at the end that a notebook shows
SHOWN = 5
#: columns without negative values
NOT_NEGATIVE = (
    "step",
    "time_fs",
    "temperature_K",
    "max_atom_std",
    "worst_atom",
    "mean_atom_std",
    "energy_std",
    "max_latent_distance",
    "pressure_std_GPa",
)


class History:
    """Table of checks, one row per check, with columns as arrays.

    | column | unit | meaning |
    |---|---|---|
    | ``step`` | | of the dynamics |
    | ``time_fs`` | fs | NaN for a dynamics without a timestep |
    | ``temperature_K`` | K | NaN without momenta |
    | ``energy`` | eV | |
    | ``max_atom_std`` | eV/Å | over the atoms that count |
    | ``worst_atom`` | | its index |
    | ``mean_atom_std`` | eV/Å | over the atoms that count |
    | ``energy_std`` | eV | |
    | ``max_latent_distance`` | | over the atoms that count; NaN for a model without a domain |
    | ``pressure_GPa`` | GPa | with the kinetic part; NaN without a pressure tolerance |
    | ``pressure_std_GPa`` | GPa | of the model's part of the pressure; NaN without a pressure tolerance |
    | ``breached`` | | whether a criterion or a fault check was breached |
    """

    def __repr__(self) -> str:
        if not len(self):
            return "History(no check yet)"
        largest, breached = self["max_atom_std"], int(self["breached"].sum())
        return (
            f"History({len(self)} checks, steps {self['step'][0]} to {self['step'][-1]}, largest atom_std "
            f"{np.nanmax(largest) if np.isfinite(largest).any() else np.nan:.3g} eV/Å, {breached} breached)"
        )

    def _repr_html_(self) -> str:
        """Return the first and the last checks as HTML, for notebooks."""
        n = len(self)
        shown = list(range(n)) if n <= 2 * SHOWN else [*range(SHOWN), *range(n - SHOWN, n)]
        rows = ["".join(f"<td>{self[name][k]:.4g}</td>" for name in self.columns) for k in shown]
        head = "".join(f"<th>{name}</th>" for name in self.columns)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><caption>{n} checks</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    columns: ClassVar[dict[str, type]] = {
        "step": int,
        "time_fs": float,
        "temperature_K": float,
        "energy": float,
        "max_atom_std": float,
        "worst_atom": int,
        "mean_atom_std": float,
        "energy_std": float,
        "max_latent_distance": float,
        "pressure_GPa": float,
        "pressure_std_GPa": float,
        "breached": bool,
    }

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        # a row takes 89 bytes, so that 10⁷ checks fit into memory
        self._row = np.dtype(list(self.columns.items()))
        self._blocks: list[np.ndarray] = []
        self._length = 0
        self._kept = 0  # rows in the file of :meth:`keep_csv`

    def append(self, **row: float) -> None:
        """Add a row; it replaces a last row of the same step."""
        if len(self) and self.last("step") == row["step"]:
            self._length -= 1
            if self._kept > len(self):  # the file holds the replaced row
                self._kept = 0
        self._add([row[name] for name in self.columns])

    def _add(self, values: list[float]) -> None:
        block, place = divmod(self._length, BLOCK)
        if block == len(self._blocks):
            self._blocks.append(np.empty(BLOCK, dtype=self._row))
        self._blocks[block][place] = tuple(values)
        self._length += 1

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, column: str) -> np.ndarray:
        """Return a column; raises :class:`UnknownKeyError` for an unknown name."""
        return self._column(column, 0)

    def last(self, column: str) -> float:
        """Return the newest entry of a column; raises :class:`UnknownKeyError`, or ``IndexError`` before the first check."""
        self._check(column)
        if not len(self):
            raise IndexError("no check yet")
        block, place = divmod(len(self) - 1, BLOCK)
        return self._blocks[block][column][place].item()

    def _column(self, name: str, first: int) -> np.ndarray:
        """Return a copy of a column from a row on."""
        self._check(name)
        parts = [np.empty(0, dtype=self._row), *self._blocks[first // BLOCK :]]
        begin = first // BLOCK * BLOCK
        return np.concatenate([part[name] for part in parts])[first - begin : len(self) - begin]

    def _check(self, name: str) -> None:
        if name not in self.columns:
            raise UnknownKeyError(f"no column {name!r}; there is {', '.join(self.columns)}")

    def to_dict(self) -> dict[str, np.ndarray]:
        """Return {column: values}, as taken by ``pandas.DataFrame``."""
        return {column: self[column] for column in self.columns}

    def load_csv(self, path: str | Path, last_step: int) -> None:
        """Replace the rows by those of a CSV file up to a step; without a file, by none.  An incomplete last line is left out.

        raises : DataError for a file with other columns or impossible values; DamagedFileError for a file changed after it was
            written
        """
        path = Path(path)
        self._clear()
        if not path.exists():
            return
        verify(path)
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                # line by line, since the file may be long
                reader = csv.reader(line for line in stream if line.endswith("\n"))
                if next(reader, None) != list(self.columns):
                    raise ValueError(f"expected the columns {', '.join(self.columns)}")
                for line in reader:
                    row = [_value(kind, text) for kind, text in zip(self.columns.values(), line, strict=True)]
                    _check_row(row)
                    if row[0] <= last_step:
                        self._add(row)
        except (OSError, ValueError, OverflowError, csv.Error) as error:
            self._clear()
            raise DataError(f"{path} is no history of a monitor: {error}") from None

    def keep_csv(self, path: str | Path) -> None:
        """Update the file of this run and its checksums: written in full the first time, then only new rows appended."""
        with adding(path):
            if not self._kept:
                forget_sums(path)
                self.save_csv(path)
            else:
                with Path(path).open("a", newline="") as stream:
                    stream.write(self._text(self._kept))
                    stream.flush()
                    os.fsync(stream.fileno())
            add_sums(path)
        self._kept = len(self)

    def save_csv(self, path: str | Path) -> None:
        """Write the table as CSV; numbers keep all digits."""
        write_atomically(Path(path), (",".join(self.columns) + "\n" + self._text(0)).encode())

    def _text(self, first: int) -> str:
        """Return the rows from ``first`` on as CSV."""
        columns = (self._column(name, first).tolist() for name in self.columns)
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(zip(*columns, strict=True))
        return buffer.getvalue()


def _check_row(row: list[float]) -> None:
    """Raise ``ValueError`` for a row with negative values in :data:`NOT_NEGATIVE` columns."""
    of = dict(zip(History.columns, row, strict=True))
    if bad := [name for name in NOT_NEGATIVE if of[name] < 0]:
        raise ValueError(f"{bad[0]} is {of[bad[0]]:g}, expected a number ≥ 0, or nan")


def _value(kind: type, text: str) -> float:
    if kind is bool and text not in ("True", "False"):
        raise ValueError(f"{text!r} is neither True nor False")
    return text == "True" if kind is bool else kind(text)
