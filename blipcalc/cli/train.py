"""``blipcalc train``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from blipcalc.cli.options import Bar, Data, Device, EnergyKey, EnergyUnit, ForcesKey, LengthUnit, say
from blipcalc.cli.settings import sections, without_idle_stages
from blipcalc.registries import MODELS, POSTERIORS


def train(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="the model file to write")],
    architecture: Annotated[
        str | None, typer.Option(help=f"{', '.join(MODELS.names())}; default: painn, or that of --start")
    ] = None,
    posterior: Annotated[str, typer.Option(help=f"one of\n\n{POSTERIORS.help()}")] = "mixture",
    members: Annotated[
        int | None, typer.Option(help="networks of an ensemble or a mixture; default: 2, or those of --start")
    ] = None,
    warm_epochs: Annotated[int, typer.Option(help="epochs of each network without noise")] = 100,
    epochs: Annotated[int, typer.Option(help="then epochs with noise in every step (ELBO, CRPS, …)")] = 0,
    noise_epochs: Annotated[
        int | None,
        typer.Option(
            help="then epochs over the validation frames that fit the noise alone; default: 20, or what makes 300 steps, "
            "without --epochs; 0 with them"
        ),
    ] = None,
    energy_unit: EnergyUnit = "eV",
    length_unit: LengthUnit = "Angstrom",
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="of weights, batches and noise")] = 0,
    start: Annotated[
        Path | None, typer.Option(help="fine-tune from this model file, deterministic or an ensemble")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="run folder; the same command resumes from it")] = None,
    only_member: Annotated[
        int | None, typer.Option(help="train this member only; without it members are assembled")
    ] = None,
    calibrate_after: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="calibrate on the held-out frames")
    ] = True,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="any other setting, e.g. --set warm.batch_size=5 --set model.sizes.features=64; sections: data, model, "
            "warm, training (the epochs with noise), noise",
        ),
    ] = None,
) -> None:
    """Train a potential on labelled data, calibrate it on held-out frames, and write one model file."""
    from blipcalc.calibration.checks import check_enough
    from blipcalc.calibration.fit import calibrate
    from blipcalc.model_file.model_file import save_model
    from blipcalc.training.config import ModelConfig, NoiseConfig, TrainConfig
    from blipcalc.training.plan import Plan
    from blipcalc.training.prepare import prepare
    from blipcalc.training.train import train as run_training

    asked = sections(
        settings or [],
        data={
            "energy_unit": energy_unit,
            "length_unit": length_unit,
            "energy_key": energy_key,
            "forces_key": forces_key,
        },
        model={"architecture": architecture, "posterior": posterior, "members": members},
        training={"epochs": epochs, "device": device, "seed": seed},
        warm={"epochs": warm_epochs, "device": device, "seed": seed},
        noise={"epochs": noise_epochs, "device": device, "seed": seed},
    )
    if noise_epochs is None and not (ModelConfig.of(asked["model"]).method.has_noise and not epochs):
        asked["noise"]["epochs"] = 0
    for stage, kind in (("warm", TrainConfig), ("training", TrainConfig), ("noise", NoiseConfig)):
        kind.of({name: value for name, value in asked[stage].items() if (name, value) != ("epochs", 0)})
    given = without_idle_stages(asked)
    plan = Plan.of(**given, start=start)
    calibrate_after = calibrate_after and only_member is None and plan.has_error_bars
    held_out = prepare(data, plan.data).split.calibration if calibrate_after else []
    if held_out:
        check_enough(held_out)
    model = run_training(data, output, start=start, folder=folder, only_member=only_member, command=_command(), **given)
    if model is None:
        return
    if held_out:
        with Bar(len(held_out), "calibration") as report:
            model = calibrate(model, held_out, device=device, dtype=plan.training.dtype, progress=report)
        save_model(model, output)
    elif calibrate_after:
        say("no frames were held out (data.calibration=0), so the model is not calibrated", err=True)
    say(f"wrote {output}; look at it with: blipcalc info {output}")


def _command() -> str:
    return shlex.join(["blipcalc", *sys.argv[1:]])
