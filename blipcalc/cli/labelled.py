"""The commands that hold models against labelled frames: ``calibrate``, ``evaluate``, ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from blipcalc.cli.options import (
    Bar,
    Data,
    Device,
    Draws,
    Dtype,
    EnergyKey,
    EnergyUnit,
    ForcesKey,
    Index,
    LengthUnit,
    ModelArgument,
    Seed,
    frames_of,
    make_folder,
    say,
)
from blipcalc.errors import ConfigurationError


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
    from blipcalc.cli.tables import calibration_text
    from blipcalc.model_file.model_file import load, save_model

    path = output or own_file(model)
    frames = frames_of(data, energy_unit, length_unit, energy_key, forces_key, index)
    with Bar(len(frames), "calibration") as report:
        fitted = fit(
            load(model),
            frames,
            n_draws=n_draws or (8, 16, 32),
            seed=seed,
            device=device,
            dtype=dtype,
            progress=report,
        )
    save_model(fitted, path)
    say(calibration_text(fitted.calibrations))
    say(f"wrote {path}")


def evaluate(
    context: typer.Context,
    model: ModelArgument,
    data: Data,
    foreign: Annotated[
        list[Path] | None, typer.Option(help="structures from outside, to tell apart by uncertainty; labels not needed")
    ] = None,
    foreign_index: Annotated[str, typer.Option(help="ASE slice of the frames of each --foreign file")] = ":",
    foreign_energy_unit: Annotated[str, typer.Option(help="unit of the energies in --foreign files")] = "eV",
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
    from blipcalc.calibration.evaluation import EVALUATION, evaluate
    from blipcalc.calibration.residuals import collect
    from blipcalc.cli.tables import error_bars_text, evaluation_text
    from blipcalc.files.json_file import write_json
    from blipcalc.model_file.model_file import load
    from blipcalc.predictor import BayesianPredictor
    from blipcalc.report.plots import error_against_sigma_plot, reliability_plot

    stored = load(model)
    # words as they were typed: what takes them checks them
    words: dict[str, Any] = {"surface": surface, "device": device, "dtype": dtype}
    predictor = BayesianPredictor.load(stored, n_draws=n_draws, seed=seed, calibrated=not raw, **words)
    frames = frames_of(data, energy_unit, length_unit, energy_key, forces_key, index)
    settings = (foreign_energy_unit, length_unit, energy_key, forces_key, foreign_index)
    outside = frames_of(foreign, *settings, require_labels=False) if foreign else None
    with Bar(len(frames), "evaluation") as report:
        residuals = collect(predictor, frames, progress=report)
    # a file without fingerprints does not say what it was trained on, which is not the same as no frame seen
    training = stored.frames.tolist() or None
    result = evaluate(predictor, frames, residuals=residuals, foreign=outside, training_frames=training)
    make_folder(output, context)
    write_json(output / "evaluation.json", EVALUATION, result.to_dict())
    reliability_plot(residuals, output / "reliability.png", result.forces.coverage)
    error_against_sigma_plot(residuals, output / "error_against_sigma.png")
    say(error_bars_text(predictor, stored.calibrations, raw=raw))
    say(evaluation_text(result))
    if result.n_seen_in_training:
        say(
            f"WARNING: {result.n_seen_in_training} of {len(frames)} frames were in the training data; the figures flatter",
            err=True,
        )
    say(f"wrote {output}/evaluation.json, reliability.png, error_against_sigma.png")


def compare(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(help="model files, or names of bundled models")],
    data: Annotated[list[Path], typer.Option("--data", help="labelled frames, the same for all")],
    foreign: Annotated[
        list[Path] | None, typer.Option(help="out-of-distribution structures, with or without labels")
    ] = None,
    foreign_index: Annotated[str, typer.Option(help="ASE slice of the frames of each --foreign file")] = ":",
    foreign_energy_unit: Annotated[str, typer.Option(help="unit of the energies in --foreign files")] = "eV",
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for table and plots")] = Path(
        "runs/comparison"
    ),
    n_draws: Annotated[int, typer.Option(help="K, or as many draws as a model has")] = 16,
    seed: Seed = 0,
    energy_unit: EnergyUnit = "eV",
    length_unit: LengthUnit = "Angstrom",
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    index: Index = ":",
    device: Device = "cpu",
    dtype: Dtype = "float64",
) -> None:
    """Compare models on one labelled set: accuracy, calibration before and after, cost; save plots."""
    from blipcalc.calibration.comparison import COMPARISON, compare_models
    from blipcalc.cli.tables import comparison_text
    from blipcalc.files.json_file import write_json
    from blipcalc.files.safetensors_file import write_atomically
    from blipcalc.model_file.model_file import load
    from blipcalc.report.plots import comparison_plot

    frames = frames_of(data, energy_unit, length_unit, energy_key, forces_key, index)
    settings = (foreign_energy_unit, length_unit, energy_key, forces_key, foreign_index)
    outside = frames_of(foreign, *settings, require_labels=False) if foreign else None
    loaded = {Path(name).stem: load(name) for name in models}
    if len(loaded) < len(models):
        raise ConfigurationError(f"models of one name cannot be told apart in a table: {', '.join(models)}")

    def announce(name: str) -> None:
        say(f"{name} …", err=True)

    rows = compare_models(
        loaded, frames, foreign=outside, n_draws=n_draws, seed=seed, progress=announce, device=device, dtype=dtype
    )
    make_folder(output, context)
    text = comparison_text(rows)
    write_atomically(output / "comparison.md", (text + "\n").encode())
    figures = {row.name: row.to_dict() for row in rows}
    write_json(output / "comparison.json", COMPARISON, {"models": figures})
    before = {row.name: row.posterior_residuals for row in rows}
    comparison_plot({row.name: row.residuals for row in rows}, output / "reliability.png", before)
    say(text)
    for row in rows:
        if row.n_seen_in_training:
            say(
                f"WARNING: {row.name} saw {row.n_seen_in_training} of these frames in training",
                err=True,
            )
        if not row.knows_foreign:
            say(f"NOTE: {row.name} does not know all elements of the foreign frames; no figures of them", err=True)
    say(f"wrote {output}/comparison.md, comparison.json, reliability.png")


def own_file(model: str) -> Path:
    """The file of a model, to be written again; refused where it belongs to the installed package."""
    from blipcalc.files.bundled import bundle_path
    from blipcalc.model_file.model_file import find_model

    path = find_model(model)
    if path.resolve().parent == bundle_path("").resolve():
        raise ConfigurationError(
            f"{model} is a bundled model, a file of the installed package that is not overwritten; name another to write, "
            f"for example -o my-{path.name}"
        )
    return path
