"""``check``: from reference MD to limits with a stated rate of false alarms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from blipcalc.cli.options import (
    Device,
    Draws,
    Dtype,
    EnergyKey,
    EnergyUnit,
    ForcesKey,
    Index,
    ModelArgument,
    Seed,
    frames_of,
    say,
)
from blipcalc.registries import CRITERIA


def check(
    model: ModelArgument,
    reference: Annotated[
        list[Path],
        typer.Argument(help="trajectories of trusted MD without labels, one for each replica; many short ones count"),
    ],
    tolerance: Annotated[float, typer.Option(help="largest force error that is accepted, eV/Å, a norm")],
    interval_fs: Annotated[
        float,
        typer.Option(help="time between the frames that are read, fs; monitored runs are checked at the same interval"),
    ],
    rate: Annotated[float, typer.Option(help="largest rate of false alarms, per ns, of all criteria together")] = 0.1,
    confidence: Annotated[float, typer.Option(help="that there are not more")] = 0.95,
    level: Annotated[float, typer.Option(help="of the bounds on force errors")] = 0.95,
    criteria: Annotated[
        str | None,
        typer.Option(
            help="names with commas in between; fewer need less reference; default: all of our own that there can be.\n\n"
            + CRITERIA.help()
        ),
    ] = None,
    labelled: Annotated[
        list[Path] | None,
        typer.Option(help="labelled frames: their errors are weighted to frames like those of the reference run"),
    ] = None,
    energy_unit: EnergyUnit = "eV",
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    output: Annotated[Path, typer.Option("--output", "-o", help="the limits, for a monitor")] = Path("limits.json"),
    n_draws: Draws = None,
    seed: Seed = 0,
    surface: Annotated[str | None, typer.Option(help="mean or centre; default: the model's own")] = None,
    index: Index = ":",
    device: Device = "cpu",
    dtype: Dtype = "float64",
) -> None:
    """Fit limits with a stated rate of false alarms from reference MD without labels."""
    from blipcalc.calibration.residuals import seen_in_training
    from blipcalc.cli.tables import limits_text
    from blipcalc.errors import TrainingDataReusedError
    from blipcalc.model_file.model_file import load
    from blipcalc.monitor.fit_limits import check_reference
    from blipcalc.predictor import BayesianPredictor

    stored = load(model)
    known = frames_of(labelled, energy_unit, "Angstrom", energy_key, forces_key, ":") if labelled else None
    seen = seen_in_training(known or [], stored.frames.tolist())
    if seen and known:
        raise TrainingDataReusedError(
            f"{len(seen)} of {len(known)} labelled frames were in the training data; give frames that the model has not seen"
        )
    # words as they were typed: what takes them checks them
    words: dict[str, Any] = {"surface": surface, "device": device, "dtype": dtype}
    predictor = BayesianPredictor.load(stored, n_draws=n_draws, seed=seed, **words)
    limits = check_reference(
        predictor,
        reference,
        interval_fs=interval_fs,
        tolerance=tolerance,
        rate_per_ns=rate,
        level=level,
        confidence=confidence,
        criteria=None if criteria is None else [name.strip() for name in criteria.split(",") if name.strip()],
        index=index,
        labelled=known,
    )
    limits.save(output)
    say(limits_text(limits))
    say(f"wrote {output}; use it as UncertaintyMonitor(dynamics, limits={str(output)!r})")
