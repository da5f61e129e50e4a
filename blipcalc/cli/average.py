"""``average``: thermal averages of a stored run, with model error and sampling error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from blipcalc.cli.options import Device, Draws, Dtype, Seed, say
from blipcalc.registries import OBSERVABLES


def average(
    run: Annotated[list[Path], typer.Argument(help="run folder or trajectory; several are replicas of one run")],
    observable: Annotated[
        list[str],
        typer.Option(help=f"may be given several times:\n\n{OBSERVABLES.help()}"),
    ],
    method: Annotated[
        str, typer.Option(help="auto, cea (cumulant expansion), reweight (refused below N_eff = 100)")
    ] = "auto",
    temperature_k: Annotated[
        float | None, typer.Option("--temperature-K", help="of trajectories without a run folder")
    ] = None,
    discard: Annotated[float, typer.Option(help="part of the run that is taken as equilibration")] = 0.1,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for all numbers")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of the (one) observable that is a curve")] = None,
    model: Annotated[
        str | None, typer.Option(help="the model of the run, for frames that hold no energies of the draws")
    ] = None,
    n_draws: Draws = None,
    seed: Seed = 0,
    surface: Annotated[str | None, typer.Option(help="mean or centre; default: the model's own")] = None,
    device: Device = "cpu",
    dtype: Dtype = "float64",
) -> None:
    """Average observables over a run: value, model error, sampling error, effective frames.  Exit code 2: too few frames."""
    from blipcalc.averages.average import AVERAGES
    from blipcalc.averages.average import average as averaged
    from blipcalc.cli.tables import averages_text
    from blipcalc.files.json_file import write_json

    calculator = None
    if model is not None:
        from blipcalc.calculators.bayesian import BayesianCalculator
        from blipcalc.model_file.model_file import load

        stored = load(model)
        # words as they were typed: what takes them checks them
        words: dict[str, Any] = {"surface": surface, "device": device, "dtype": dtype}
        calculator = BayesianCalculator(stored, n_draws=n_draws, seed=seed, **words)
    source = run[0] if len(run) == 1 else run
    settings: dict[str, Any] = {
        "method": method,
        "temperature_K": temperature_k,
        "calculator": calculator,
        "discard": discard,
    }
    found = [averaged(source, name, **settings) for name in observable]
    say(averages_text(found))
    if json_file is not None:
        write_json(json_file, AVERAGES, {"averages": [one.to_dict() for one in found]})
    if plot is not None:
        curves = [one for one in found if one.axis is not None]
        (curves or found)[0].plot(plot)
