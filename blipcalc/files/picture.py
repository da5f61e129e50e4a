"""Pictures as PNG files, written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from blipcalc.files.safetensors_file import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def finished(figure: Figure, path: str | Path | None) -> Figure:
    """Return the figure; write it as a PNG where there is a path."""
    if path is not None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        write_atomically(Path(path), buffer.getvalue())
    return figure
