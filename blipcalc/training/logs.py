"""Logs of a training: ``log.csv``, and TensorBoard events where that package is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path

from blipcalc.files.checksums import add_sums, forget_sums, verify
from blipcalc.files.safetensors_file import write_atomically


class Totals:
    """Running means of figures over steps."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.n = 0

    def add(self, figures: Mapping[str, float]) -> None:
        """Add the figures of one step."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.n += 1

    def means(self) -> dict[str, float]:
        """Return the means over all steps so far."""
        return {name: value / self.n for name, value in self.sums.items()}


class RunLog:
    """Log of a run, with one row per epoch.

    Parameters
    ----------
    folder : run folder
    active : False writes nothing (processes other than the first)
    """

    def __init__(self, folder: Path, *, active: bool = True) -> None:
        self.path, self.active = folder / "log.csv", active
        self._events = None
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            if importlib.util.find_spec("tensorboard"):
                from torch.utils.tensorboard import SummaryWriter

                self._events = SummaryWriter(str(folder / "tensorboard"))

    def rows(self) -> list[dict[str, str]]:
        """Return the rows written so far; raises :class:`DamagedFileError` for a changed file."""
        if not self.path.exists():
            return []
        verify(self.path)
        with self.path.open(newline="") as stream:
            return list(csv.DictReader(stream))

    def keep(self, epoch: int) -> None:
        """Remove the rows after ``epoch``, which a resumed run writes again."""
        if not (self.active and self.path.exists()):
            return
        kept = io.StringIO()
        rows = [row for row in self.rows()[:epoch] if int(row["epoch"]) <= epoch]
        forget_sums(self.path)
        if rows:
            writer = csv.DictWriter(kept, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            write_atomically(self.path, kept.getvalue().encode())
            add_sums(self.path)
        else:
            self.path.unlink()

    def write(self, row: Mapping[str, float]) -> None:
        """Add one row."""
        if not self.active:
            return
        self._append({key: f"{value:.8g}" if isinstance(value, float) else value for key, value in row.items()})
        if self._events is not None:
            for key, value in row.items():
                if key != "epoch":
                    self._events.add_scalar(key, float(value), int(row["epoch"]))

    def _append(self, row: Mapping[str, object]) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        add_sums(self.path)

    def close(self) -> None:
        """Close the TensorBoard events."""
        if self._events is not None:
            self._events.close()
