"""What a monitor has seen, as a table."""

from __future__ import annotations

import csv
import io
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

    def append(self, **row: float) -> None:
        """Add a row; one of the same step as the last replaces it."""
        values = tuple(kind(row[name]) for name, kind in self.columns.items())
        if self._rows and self._rows[-1][0] == values[0]:
            self._rows.pop()
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
        """Take the rows of a table that :meth:`save_csv` wrote, up to a step; none where there is no file.

        raises : DataError for a file with other columns, or with something that is no number
        """
        self._rows = []
        if not Path(path).exists():
            return
        with Path(path).open(newline="") as stream:
            reader = csv.reader(stream)
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

    def save_csv(self, path: str | Path) -> None:
        """Write the table; numbers keep all digits."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self._rows)
        write_atomically(Path(path), buffer.getvalue().encode())
