"""What a monitor has seen, as a table."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from blipcalc.errors import DataError, UnknownKeyError
from blipcalc.sealed import write_atomically


class History:
    """One row per check, columns as arrays.

    | column | unit | meaning |
    |---|---|---|
    | ``step`` | | of the dynamics |
    | ``time_fs`` | fs | NaN where the dynamics has no timestep |
    | ``temperature_K`` | K | NaN without momenta |
    | ``energy`` | eV | |
    | ``max_atom_std`` | eV/Å | over the atoms that count |
    | ``worst_atom`` | | its index |
    | ``mean_atom_std`` | eV/Å | over the atoms that count |
    | ``energy_std`` | eV | |
    | ``breached`` | | whether a rule was |
    """

    columns: ClassVar[dict[str, type]] = {
        "step": int,
        "time_fs": float,
        "temperature_K": float,
        "energy": float,
        "max_atom_std": float,
        "worst_atom": int,
        "mean_atom_std": float,
        "energy_std": float,
        "breached": bool,
    }

    def __init__(self) -> None:
        self._rows: list[tuple] = []
        self._kept = 0  # rows that the file of :meth:`keep_csv` holds

    def append(self, **row: float) -> None:
        """Add a row; one of the same step as the last replaces it."""
        values = tuple(kind(row[name]) for name, kind in self.columns.items())
        if self._rows and self._rows[-1][0] == values[0]:
            self._rows.pop()
            if self._kept > len(self._rows):  # it holds the row that is replaced
                self._kept = 0
        self._rows.append(values)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, column: str) -> np.ndarray:
        """A column; raises :class:`UnknownKeyError` for an unknown one."""
        where = self._where(column)
        return np.array([row[where] for row in self._rows], dtype=self.columns[column])

    def last(self, column: str) -> float:
        """The newest entry of a column; raises :class:`UnknownKeyError`, or ``IndexError`` before the first check."""
        return self._rows[-1][self._where(column)]

    def _where(self, column: str) -> int:
        if column not in self.columns:
            raise UnknownKeyError(f"no column {column!r}; there is {', '.join(self.columns)}")
        return list(self.columns).index(column)

    def to_dict(self) -> dict[str, np.ndarray]:
        """{column: values}, as ``pandas.DataFrame`` takes it."""
        return {column: self[column] for column in self.columns}

    def load_csv(self, path: str | Path, last_step: int) -> None:
        """Take the rows of a table, up to a step; none where there is no file.  A last line that was cut short is left out.

        raises : DataError for a file with other columns, or with something that is no number
        """
        self._rows, self._kept = [], 0
        if not Path(path).exists():
            return
        lines = Path(path).read_text().split("\n")[:-1]
        reader = csv.reader(lines)
        if next(reader, None) != list(self.columns):
            raise DataError(f"{path} is no history of a monitor: expected the columns {', '.join(self.columns)}")
        for line in reader:
            try:
                row = tuple(
                    text == "True" if kind is bool else kind(text)
                    for kind, text in zip(self.columns.values(), line, strict=True)
                )
            except ValueError as error:
                raise DataError(f"{path}, line {reader.line_num}: {error}") from None
            if row[0] <= last_step:
                self._rows.append(row)

    def keep_csv(self, path: str | Path) -> None:
        """Bring a file of this run up to date: whole at the first time, by the rows that are new from then on."""
        if not self._kept:
            self.save_csv(path)
        else:
            with Path(path).open("a", newline="") as stream:
                stream.write(self._text(self._rows[self._kept :]))
                stream.flush()
                os.fsync(stream.fileno())
        self._kept = len(self._rows)

    def save_csv(self, path: str | Path) -> None:
        """Write the table; numbers keep all digits."""
        write_atomically(Path(path), self._text([tuple(self.columns), *self._rows]).encode())

    @staticmethod
    def _text(rows: list[tuple]) -> str:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(rows)
        return buffer.getvalue()
