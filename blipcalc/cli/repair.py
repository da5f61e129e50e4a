"""``repair``: damaged files of a run folder, and the frames that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blipcalc.cli.options import say

#: exit code where damage was found and left as it is
DAMAGED = 1


def repair(
    path: Annotated[Path, typer.Argument(help="run folder, or one file with checksums beside it")],
    dry_run: Annotated[
        bool, typer.Option(help="report the damage and change nothing; exit code 1 for damaged files")
    ] = False,
) -> None:
    """Find damaged frames of a run by their checksums, and keep what comes before them."""
    from blipcalc.md.repair import repair_run

    findings = repair_run(path, dry_run=dry_run)
    for file, (is_whole, text) in findings.items():
        left = "kept what comes before" if file.exists() else "nothing comes before, so no file is left"
        kept = "" if is_whole or dry_run else f" -> {left}; the damaged file is {file.name}.damaged"
        say(f"{'whole  ' if is_whole else 'DAMAGED'} {file.name}: {text}{kept}")
    if dry_run and not all(is_whole for is_whole, _ in findings.values()):
        raise typer.Exit(DAMAGED)
