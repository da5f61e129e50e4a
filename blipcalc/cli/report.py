"""``report``: one page about a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blipcalc.cli.options import say


def report(
    folder: Annotated[Path, typer.Argument(help="run folder of 'blipcalc md'; the run may be on its way still")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the page; default: report.html in the folder")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="model file or bundled model of the run: adds its training and calibration")
    ] = None,
    limits: Annotated[Path | None, typer.Option(help="limits of the run")] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="folder of 'blipcalc evaluate', for observed coverage")
    ] = None,
) -> None:
    """Write one HTML page about a run: its end, uncertainties, events and hashes.  The page needs no network."""
    from blipcalc.report.page import write_report

    path = write_report(folder, output, model=model, limits=limits, evaluation=evaluation)
    say(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
