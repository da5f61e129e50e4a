"""The ``blipcalc`` command: each sub-command parses, calls one public function, and writes a summary.

Heavy imports happen inside the commands, so that ``blipcalc --help`` does not import torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from blipcalc.cli.average import average
from blipcalc.cli.check import check
from blipcalc.cli.domain import domain
from blipcalc.cli.labelled import calibrate, compare, evaluate
from blipcalc.cli.md import md
from blipcalc.cli.options import ModelArgument, say
from blipcalc.cli.relax import relax
from blipcalc.cli.repair import repair
from blipcalc.cli.report import report
from blipcalc.cli.train import train
from blipcalc.errors import BlipcalcError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


#: of every command, for the end of its help
EXAMPLES: dict[Callable[..., None], str] = {
    train: "blipcalc train frames.extxyz -o my.blip",
    calibrate: "blipcalc calibrate my.blip fresh_frames.extxyz",
    evaluate: "blipcalc evaluate my.blip test_frames.extxyz --output runs/test",
    compare: "blipcalc compare a.blip b.blip --data test_frames.extxyz",
    domain: "blipcalc domain my.blip frames.extxyz",
    check: "blipcalc check my.blip replica-*.traj --tolerance 0.5 --interval-fs 25 -o limits.json",
    md: "blipcalc md start.xyz --model my.blip --time-ps 100 --folder runs/long",
    average: "blipcalc average runs/long --observable rdf:O-O",
    relax: "blipcalc relax start.xyz --model my.blip --folder runs/relaxed",
    report: "blipcalc report runs/long",
    repair: "blipcalc repair runs/long",
}


def _show_version(wanted: bool) -> None:
    if wanted:
        say(version("blipcalc"))
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Bayesian interatomic potentials behind ASE: train, calibrate, evaluate, and run MD that knows its error."""


def main() -> None:
    """Entry point: named errors become one line and exit code 2."""
    try:
        app(standalone_mode=True)
    except BlipcalcError as error:
        say(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)


@app.command(epilog="Example: blipcalc info my.blip")
def info(
    model: ModelArgument, as_json: Annotated[bool, typer.Option("--json", help="the whole manifest")] = False
) -> None:
    """Print what is in a model file."""
    from blipcalc.cli.tables import info_text
    from blipcalc.model_file.model_file import find_model, model_info

    manifest = model_info(model)
    say(json.dumps(manifest, indent=1) if as_json else info_text(manifest, find_model(model)))


for command, example in EXAMPLES.items():
    app.command(epilog=f"Example: {example}")(command)


@app.command(epilog="Example: blipcalc demo")
def demo(
    molecule: Annotated[str, typer.Option(help="one of the seven bundled rMD17 molecules")] = "ethanol",
    model: Annotated[str, typer.Option(help="model file or bundled model")] = "rmd17",
    folder: Annotated[Path, typer.Option(help="run folder")] = Path("runs/demo"),
    time_ps: Annotated[float, typer.Option(help="length of the run at 300 K, ps")] = 6.0,
    tolerance: Annotated[float, typer.Option(help="largest force error that is accepted, eV/Å")] = 0.5,
    seed: Annotated[int, typer.Option(help="of momenta and thermostat")] = 0,
) -> None:
    """Langevin MD at 300 K under an uncertainty monitor, then heated until the monitor halts it."""
    from blipcalc.cli.demo import run_demo
    from blipcalc.cli.tables import demo_text

    summary = run_demo(molecule, model, folder, time_ps=time_ps, tolerance=tolerance, seed=seed)
    say(demo_text(summary, folder))
