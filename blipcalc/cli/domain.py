"""``domain``: the region of the training data, added to a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blipcalc.cli.labelled import own_file
from blipcalc.cli.options import Index, LengthUnit, ModelArgument, frames_of, say


def domain(
    model: ModelArgument,
    frames: Annotated[
        list[Path],
        typer.Argument(
            help="files with the frames that it was trained on; others among them are left out; no labels needed"
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="default: the model file itself; needed for a bundled model")
    ] = None,
    length_unit: LengthUnit = "Angstrom",
    index: Index = ":",
) -> None:
    """Add the region of the training data to a model file, for latent distances; training does it too."""
    from dataclasses import replace

    from blipcalc.calibration.residuals import seen_in_training
    from blipcalc.core.domain import fit_domain
    from blipcalc.errors import ConfigurationError, DataError
    from blipcalc.model_file.model_file import load, save_model

    path, stored = output or own_file(model), load(model)
    structures = frames_of(frames, "eV", length_unit, "energy", "forces", index, require_labels=False)
    n_given = len(structures)
    if len(stored.frames):  # a file without fingerprints does not say what it was trained on
        structures = [structures[k] for k in seen_in_training(structures, stored.frames.tolist())]
    if not structures:
        raise DataError(
            f"none of the {n_given} frames is one that {model} was trained on; name the files of its training"
        )
    found = fit_domain(stored.network, structures)
    if found is None:
        raise ConfigurationError(f"{model} gives no features of its atoms, so that it has no domain")
    save_model(replace(stored, domain=found), path)
    pairs = ", ".join(f"{pair} {distance:.2f}" for pair, distance in found.closest.items())
    say(f"{found.n_frames} of {n_given} frames; closest pairs (Å): {pairs}\nwrote {path}")
