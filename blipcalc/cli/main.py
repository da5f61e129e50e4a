"""The ``blipcalc`` command: each sub-command parses, calls one public function, and writes a summary.

Heavy imports happen inside the commands, so that ``blipcalc --help`` does not import torch.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from blipcalc.cli.settings import sections, without_idle_stages
from blipcalc.errors import BlipcalcError, ConfigurationError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Bayesian interatomic potentials behind ASE: train, calibrate, evaluate, and run MD that knows its error.",
)


Data = Annotated[
    list[Path], typer.Argument(help="extxyz, .traj, ase.db or rMD17-style .npz files with energies and forces")
]
ModelArgument = Annotated[str, typer.Argument(help="a .blip file, or the name of a bundled model")]
EnergyUnit = Annotated[str, typer.Option(help="unit of the energies in the files: eV, kcal/mol, Hartree, …")]
LengthUnit = Annotated[str, typer.Option(help="unit of the lengths in the files: Angstrom, Bohr")]
EnergyKey = Annotated[str, typer.Option(help="name of the energies in the files")]
ForcesKey = Annotated[str, typer.Option(help="name of the forces in the files")]
Index = Annotated[str, typer.Option(help="ASE slice of the frames of each file, e.g. ::10")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
Draws = Annotated[int | None, typer.Option(help="K, posterior draws; default 16, or all members of a smaller ensemble")]
Dtype = Annotated[str, typer.Option(help="float64, or float32 for speed")]
Seed = Annotated[int, typer.Option(help="seed of the draws")]


def main() -> None:
    """Entry point: named errors become one line and exit code 2."""
    try:
        app(standalone_mode=True)
    except BlipcalcError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)


@app.command()
def info(
    model: ModelArgument, as_json: Annotated[bool, typer.Option("--json", help="the whole manifest")] = False
) -> None:
    """Print what is in a model file."""
    from blipcalc.checkpoint import find_model, model_info
    from blipcalc.cli.tables import info_text

    manifest = model_info(model)
    typer.echo(json.dumps(manifest, indent=1) if as_json else info_text(manifest, find_model(model)))


@app.command()
def train(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="the model file to write")],
    architecture: Annotated[
        str | None, typer.Option(help="painn, race, schnet or visnet; default: painn, or that of --start")
    ] = None,
    posterior: Annotated[
        str, typer.Option(help="point, blip, ensemble, mixture (of BLIPs), swag, ivon, laplace or llpr")
    ] = "mixture",
    members: Annotated[int, typer.Option(help="networks of an ensemble or a mixture")] = 2,
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
    start: Annotated[Path | None, typer.Option(help="fine-tune from this deterministic model file")] = None,
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
    from blipcalc.calibration.fit import calibrate, check_enough
    from blipcalc.checkpoint import save_model
    from blipcalc.training.config import ModelConfig, NoiseConfig, TrainConfig
    from blipcalc.training.plan import Plan
    from blipcalc.training.prepare import prepare
    from blipcalc.training.run import train as run_training

    given = sections(
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
    if noise_epochs is None and not (ModelConfig.of(given["model"]).is_blip and not epochs):
        given["noise"]["epochs"] = 0
    for stage, kind in (("warm", TrainConfig), ("training", TrainConfig), ("noise", NoiseConfig)):
        kind.of({name: value for name, value in given[stage].items() if (name, value) != ("epochs", 0)})
    given = without_idle_stages(given)
    plan = Plan.of(**given, start=start)
    calibrate_after = calibrate_after and only_member is None and plan.has_error_bars
    held_out = prepare(data, plan.data).split.calibration if calibrate_after else []
    if held_out:
        check_enough(len(held_out))
    model = run_training(data, output, start=start, folder=folder, only_member=only_member, command=_command(), **given)
    if model is None:
        return
    if held_out:
        with _bar(len(held_out), "calibration") as report:
            model = calibrate(model, held_out, device=device, dtype=plan.training.dtype, progress=report)
        save_model(model, output)
    elif calibrate_after:
        typer.echo("no frames were held out (data.calibration=0), so the model is not calibrated", err=True)
    typer.echo(f"wrote {output}; look at it with: blipcalc info {output}")


@app.command()
def calibrate(
    model: ModelArgument,
    data: Data,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="default: the model file itself; needed for a bundled model")
    ] = None,
    n_draws: Annotated[list[int] | None, typer.Option(help="K; default 8, 16 and 32")] = None,
    seed: Seed = 0,
    energy_unit: EnergyUnit = "eV",
    length_unit: LengthUnit = "Angstrom",
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    index: Index = ":",
    device: Device = "cpu",
    dtype: Dtype = "float64",
) -> None:
    """Fit the constants that turn a spread into an error bar, on frames that training has not seen."""
    from blipcalc.calibration.fit import calibrate as fit
    from blipcalc.checkpoint import load_model, save_model
    from blipcalc.cli.tables import calibration_text

    path = output or _own_file(model)
    frames = _frames(data, energy_unit, length_unit, energy_key, forces_key, index)
    with _bar(len(frames), "calibration") as report:
        fitted = fit(
            load_model(model),
            frames,
            n_draws=n_draws or (8, 16, 32),
            seed=seed,
            device=device,
            dtype=dtype,
            progress=report,
        )
    save_model(fitted, path)
    typer.echo(calibration_text(fitted.calibrations))
    typer.echo(f"wrote {path}")


@app.command()
def evaluate(
    model: ModelArgument,
    data: Data,
    foreign: Annotated[
        list[Path] | None, typer.Option(help="structures from outside, to tell apart by uncertainty; labels not needed")
    ] = None,
    foreign_index: Annotated[str, typer.Option(help="ASE slice of the frames of each foreign file")] = ":",
    foreign_energy_unit: Annotated[str, typer.Option(help="unit of the energies of foreign labels")] = "eV",
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for figures and plots")] = Path(
        "runs/evaluation"
    ),
    n_draws: Draws = None,
    seed: Seed = 0,
    surface: Annotated[str | None, typer.Option(help="mean or centre; default: the model's own")] = None,
    raw: Annotated[bool, typer.Option(help="posterior values without calibration")] = False,
    energy_unit: EnergyUnit = "eV",
    length_unit: LengthUnit = "Angstrom",
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    index: Index = ":",
    device: Device = "cpu",
    dtype: Dtype = "float64",
) -> None:
    """Print errors, coverage, scores and ranks on labelled data, and save reliability and error-against-sigma plots."""
    from blipcalc.calibration.evaluation import evaluate_model
    from blipcalc.calibration.fit import feasible_draws
    from blipcalc.calibration.residuals import collect
    from blipcalc.checkpoint import load_model
    from blipcalc.cli.tables import error_bars_text, evaluation_text
    from blipcalc.predictor import BayesianPredictor
    from blipcalc.report.plots import error_against_sigma_plot, reliability_plot

    stored = load_model(model)
    n_draws = feasible_draws(stored.posterior) if n_draws is None else n_draws
    predictor = BayesianPredictor.load(
        stored, n_draws=n_draws, seed=seed, surface=surface, calibrated=not raw, device=device, dtype=dtype
    )
    frames = _frames(data, energy_unit, length_unit, energy_key, forces_key, index)
    settings = (foreign_energy_unit, length_unit, energy_key, forces_key, foreign_index)
    outside = _frames(foreign, *settings, require_labels=False) if foreign else None
    with _bar(len(frames), "evaluation") as report:
        residuals = collect(predictor, frames, progress=report)
    # a file without fingerprints does not say what it was trained on, which is not the same as no frame seen
    training = stored.frames.tolist() or None
    result = evaluate_model(predictor, frames, residuals=residuals, foreign=outside, training_frames=training)
    output.mkdir(parents=True, exist_ok=True)
    (output / "evaluation.json").write_text(json.dumps(result.to_dict(), indent=1))
    reliability_plot(residuals, output / "reliability.png", result.forces.coverage)
    error_against_sigma_plot(residuals, output / "error_against_sigma.png")
    typer.echo(error_bars_text(predictor, stored.calibrations, raw=raw))
    typer.echo(evaluation_text(result))
    if result.n_seen_in_training:
        typer.echo(
            f"WARNING: {result.n_seen_in_training} of {len(frames)} frames were in the training data; the figures flatter",
            err=True,
        )
    typer.echo(f"wrote {output}/evaluation.json, reliability.png, error_against_sigma.png")


@app.command()
def demo(
    molecule: Annotated[str, typer.Option(help="one of the seven bundled rMD17 molecules")] = "ethanol",
    model: Annotated[str, typer.Option(help="model file or bundled model")] = "rmd17",
    folder: Annotated[Path, typer.Option(help="run folder")] = Path("runs/demo"),
    time_ps: Annotated[float, typer.Option(help="length of the run at 300 K")] = 10.0,
    tolerance: Annotated[float, typer.Option(help="largest force error that is accepted, eV/Å")] = 0.5,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Langevin MD at 300 K under an uncertainty monitor, then heated until the monitor halts it."""
    from blipcalc.cli.demo import run_demo
    from blipcalc.cli.tables import demo_text

    summary = run_demo(molecule, model, folder, time_ps=time_ps, tolerance=tolerance, seed=seed)
    typer.echo(demo_text(summary, folder))


def _own_file(model: str) -> Path:
    """The file of a model, to be written again; refused where it belongs to the installed package."""
    from blipcalc.bundle import bundle_path
    from blipcalc.checkpoint import find_model

    path = find_model(model)
    if path.resolve().parent == bundle_path("").resolve():
        raise ConfigurationError(
            f"{model} is a bundled model, a file of the installed package that is not overwritten; name another to write, "
            f"for example -o my-{path.name}"
        )
    return path


def _frames(
    paths: list[Path],
    energy_unit: str,
    length_unit: str,
    energy_key: str,
    forces_key: str,
    index: str,
    *,
    require_labels: bool = True,
) -> list[Any]:
    """Structures of all files; labels are needed but for those from outside."""
    from blipcalc.calibration.foreign import read_foreign
    from blipcalc.data.labels import read_labelled

    return [
        atoms
        for path in paths
        for atoms in (read_labelled if require_labels else read_foreign)(
            path,
            energy_unit=energy_unit,
            length_unit=length_unit,
            energy_key=energy_key,
            forces_key=forces_key,
            index=index,
        )
    ]


class _bar:
    """A progress bar as a function of (done, all)."""

    def __init__(self, total: int, what: str) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=total, desc=what, unit="frame")

    def __enter__(self) -> Any:
        return lambda done, total: self.bar.update(done - self.bar.n)

    def __exit__(self, *error: object) -> None:
        self.bar.close()


def _command() -> str:
    return shlex.join(["blipcalc", *sys.argv[1:]])
