"""``md``: a monitored run in a folder, for a terminal or a job script."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from blipcalc.cli.options import Device, Draws, Dtype, Seed, say, structure_of
from blipcalc.errors import ConfigurationError

#: exit codes; 2 is bad input, as for every command
FINISHED, HALTED, NON_FINITE, STOPPED = 0, 3, 4, 5


def md(
    structure: Annotated[
        Path, typer.Argument(help="file that ASE reads; its last frame, with momenta where it has them")
    ],
    time_ps: Annotated[float, typer.Option(help="length of the run, ps")],
    model: Annotated[str, typer.Option(help="a .blip file, or the name of a bundled model")] = "rmd17",
    folder: Annotated[
        Path, typer.Option(help="run folder; the same command continues from its last checkpoint")
    ] = Path("runs/md"),
    temperature_k: Annotated[float, typer.Option("--temperature-K", help="of momenta and thermostat")] = 300.0,
    ensemble: Annotated[
        str, typer.Option(help="nve, langevin, baoab, bussi, nose-hoover, npt, npt-cell, npt-baoab")
    ] = "langevin",
    timestep_fs: Annotated[float, typer.Option(help="of the integrator")] = 0.5,
    friction_per_fs: Annotated[float, typer.Option(help="of langevin, baoab, npt-baoab")] = 0.01,
    damping_fs: Annotated[float, typer.Option(help="of the thermostat of bussi, nose-hoover, npt, npt-cell")] = 100.0,
    pressure_gpa: Annotated[float, typer.Option("--pressure-GPa", help="of npt")] = 0.0,
    pressure_damping_fs: Annotated[float, typer.Option(help="of the barostat")] = 1000.0,
    tolerance: Annotated[
        float | None, typer.Option(help="halt where the bound on a force error passes it, eV/Å; default 0.5")
    ] = None,
    limits: Annotated[
        Path | None, typer.Option(help="instead: limits with a stated rate of false alarms, from 'blipcalc check'")
    ] = None,
    every: Annotated[int | None, typer.Option(help="steps between checks; default 10, or what the limits say")] = None,
    rollback: Annotated[
        bool, typer.Option(help="go back to the last check that passed, three times, before a halt")
    ] = False,
    independent_runs: Annotated[
        bool, typer.Option(help="the same on each draw's own surface too, one folder each, for 'blipcalc average'")
    ] = False,
    go_on: Annotated[bool, typer.Option(help="past the halt that the run in this folder ended with")] = False,
    write_every: Annotated[int, typer.Option(help="steps between frames of the trajectory")] = 100,
    keep_draws: Annotated[
        bool,
        typer.Option(help="energies of the draws in every frame, for 'blipcalc average'; frames of checks have them"),
    ] = False,
    checkpoint_every: Annotated[int, typer.Option(help="steps between checkpoints")] = 1000,
    md_seed: Annotated[int, typer.Option(help="of momenta and thermostat; replicas take one each")] = 0,
    n_draws: Draws = None,
    seed: Seed = 0,
    surface: Annotated[str | None, typer.Option(help="mean or centre; default: the model's own")] = None,
    device: Device = "cpu",
    dtype: Dtype = "float64",
    strategy: Annotated[str, typer.Option(help="traced, compiled (a C++ compiler, a minute), vmap, loop")] = "traced",
) -> None:
    """Run MD under a monitor.  Exit code: 0 finished, 3 halted by it, 4 not finite, 5 stopped by a signal, 2 bad input."""
    from blipcalc.calculators.bayesian import BayesianCalculator
    from blipcalc.files.json_file import json_text
    from blipcalc.md.run_md import run_md
    from blipcalc.model_file.model_file import load

    if tolerance is not None and limits is not None:
        raise ConfigurationError("give --tolerance or --limits, not both")
    atoms, stored = structure_of(structure), load(model)
    # words as they were typed: what takes them checks them
    words: dict[str, Any] = {"surface": surface, "device": device, "dtype": dtype, "strategy": strategy}
    atoms.calc = BayesianCalculator(stored, n_draws=n_draws, seed=seed, **words)
    rule: dict[str, Any] = (
        {"limits": limits} if limits is not None else {"tolerance": 0.5 if tolerance is None else tolerance}
    )
    settings = rule | {
        "time_ps": time_ps,
        "temperature_K": temperature_k,
        "seed": md_seed,
        "folder": folder,
        "checkpoint_every": checkpoint_every,
        "go_on": go_on,
        "write_every": write_every,
        "keep_draws": keep_draws,
        "ensemble": ensemble,
        "timestep_fs": timestep_fs,
        "friction_per_fs": friction_per_fs,
        "damping_fs": damping_fs,
        "pressure_GPa": pressure_gpa,
        "pressure_damping_fs": pressure_damping_fs,
        "every": every if every is not None or limits is not None else 10,
        "self_test": True,
        "on_breach": ["flag", "rollback", "halt"] if rollback else None,
    }
    if independent_runs:
        from blipcalc.averages.independent_runs import independent_runs as run_all

        summaries = run_all(atoms, **settings)
        say(json_text({name: summary.to_dict() for name, summary in summaries.items()}, ascii_only=False))
        raise typer.Exit(max(_code(summary) for summary in summaries.values()))
    summary, _ = run_md(atoms, **settings)
    say(json_text(summary.to_dict(), ascii_only=False))
    raise typer.Exit(_code(summary))


def _code(summary: Any) -> int:
    """Exit code of a run."""
    codes = {"finished": FINISHED, "halted": HALTED if summary.is_finite else NON_FINITE}
    return codes.get(summary.status, STOPPED)
