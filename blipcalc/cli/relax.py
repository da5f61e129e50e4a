"""``relax``: the minimum of a structure with error bars, for a terminal or a job script."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from blipcalc.cli.options import Device, Draws, Dtype, Seed, make_folder, say, structure_of
from blipcalc.errors import ConfigurationError

#: what it writes
OUTPUTS = ("relaxed.extxyz", "relaxation.json", "draws.traj", "picture.png", "path.traj", "optimizer.log")
#: exit codes; 2 is bad input, as for every command
DONE, HALTED, NOT_THERE, INTERRUPTED = 0, 3, 6, 5


def relax(
    context: typer.Context,
    structure: Annotated[Path, typer.Argument(help="file that ASE reads; its last frame")],
    model: Annotated[str, typer.Option(help="a .blip file, or the name of a bundled model")] = "rmd17",
    folder: Annotated[
        Path, typer.Option(help="for relaxed.extxyz, draws.traj, relaxation.json, picture.png, …")
    ] = Path("runs/relax"),
    optimizer: Annotated[str, typer.Option(help="name of one of ASE's")] = "BFGS",
    fmax: Annotated[float, typer.Option(help="eV/Å")] = 0.01,
    z: Annotated[float, typer.Option(help="stop when all forces are below z σ, also above fmax; 0: never")] = 0.3,
    steps: Annotated[int, typer.Option(help="of the optimiser at most")] = 500,
    cell: Annotated[
        str, typer.Option(help="fixed, free, isotropic, shape, or a mask of xx,yy,zz,yz,xz,xy such as 1,1,0,0,0,0")
    ] = "fixed",
    pressure_gpa: Annotated[float, typer.Option("--pressure-GPa", help="that a free cell is under")] = 0.0,
    error_bars: Annotated[str, typer.Option(help="auto, response, relax, none")] = "auto",
    tolerance: Annotated[
        float | None, typer.Option(help="halt where the bound on a force error passes it, eV/Å")
    ] = None,
    outside: Annotated[float | None, typer.Option(help="halt beyond this latent distance from the data")] = None,
    n_draws: Draws = None,
    seed: Seed = 0,
    surface: Annotated[str | None, typer.Option(help="mean or centre; default: the model's own")] = None,
    device: Device = "cpu",
    dtype: Dtype = "float64",
    strategy: Annotated[str, typer.Option(help="vmap, traced, compiled, loop; default: what suits")] = "auto",
) -> None:
    """Relax a structure, with error bars on energy, positions, cell and bonds.

    Exit code: 0 relaxed, 3 halted by a monitor, 5 interrupted, 6 out of steps, 2 bad input.
    """
    from blipcalc.calculators.bayesian import BayesianCalculator
    from blipcalc.files.checksums import forget_sums
    from blipcalc.files.json_file import write_json
    from blipcalc.io import write
    from blipcalc.model_file.model_file import load
    from blipcalc.relaxation.relax import relax as relax_atoms
    from blipcalc.relaxation.relaxation_plot import plot_relaxed
    from blipcalc.relaxation.result import RELAXATION

    atoms, stored = structure_of(structure), load(model)
    # words as they were typed: what takes them checks them
    words: dict[str, Any] = {"surface": surface, "device": device, "dtype": dtype, "strategy": strategy}
    bars: Any = None if error_bars == "none" else error_bars
    atoms.calc = BayesianCalculator(stored, n_draws=n_draws, seed=seed, **words)
    make_folder(folder, context)
    for name in OUTPUTS:  # of an earlier relaxation nothing stays beside this one
        (folder / name).unlink(missing_ok=True)
        forget_sums(folder / name)
    try:
        relaxed = relax_atoms(
            atoms,
            optimizer=optimizer,
            fmax=fmax,
            z=z,
            steps=steps,
            cell=_cell(cell),
            pressure_GPa=pressure_gpa,
            error_bars=bars,
            tolerance=tolerance,
            outside=outside,
            on_breach=["flag", "halt"],
            trajectory=folder / "path.traj",
            logfile=folder / "optimizer.log",
        )
    except KeyboardInterrupt:
        say(f"interrupted; {folder / 'path.traj'} holds the way so far: relax that, into another folder", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if "atom_std" in atoms.calc.implemented_properties:
        atoms.calc.get_property("atom_std", atoms)  # for the file, of the structure as it ended
    write(folder / "relaxed.extxyz", atoms, checksums=True)
    write_json(folder / "relaxation.json", RELAXATION, relaxed.to_dict())
    if relaxed.error_bars is not None:
        write(folder / "draws.traj", relaxed.error_bars.structures, checksums=True)
        plot_relaxed(relaxed, folder / "picture.png", f"{atoms.get_chemical_formula()}, {model}")
    say(relaxed.table())
    codes = {"halted": HALTED, "steps": NOT_THERE}
    raise typer.Exit(codes.get(relaxed.status, DONE))


def _cell(text: str) -> bool | str | list[bool]:
    if text in ("fixed", "free"):
        return text == "free"
    if "," not in text:
        return text
    parts = [part.strip() for part in text.split(",")]
    if not set(parts) <= {"0", "1"}:
        raise ConfigurationError(f"--cell {text}: expected six of 0 and 1, xx,yy,zz,yz,xz,xy")
    return [part == "1" for part in parts]
