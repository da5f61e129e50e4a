"""What several commands share: their options, the way to the terminal, reading of frames, a progress bar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from blipcalc.errors import ConfigurationError, DataError
from blipcalc.files.locks import held
from blipcalc.text import printable

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


def say(text: str, *, err: bool = False) -> None:
    """Write to the terminal: the one way there, for much of it was read from files."""
    typer.echo(printable(text), err=err)


def frames_of(
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
    from blipcalc.calibration.out_of_distribution import read_foreign
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


def structure_of(path: Path) -> Any:
    """The last frame of a file, without its calculator."""
    import ase.io

    from blipcalc.core.dropped_by_ase import put_back
    from blipcalc.data.xyz import check_counts
    from blipcalc.files.checksums import verify

    verify(path)
    check_counts(path)
    try:
        (atoms,) = ase.io.iread(path, -1)
    except Exception as error:  # each reader has errors of its own
        raise DataError(f"{path} cannot be read as a structure: {type(error).__name__} {error}") from error
    put_back(atoms)
    atoms.calc = None
    return atoms


def make_folder(path: Path, context: typer.Context) -> None:
    """Make a folder for results, and hold it until the command ends.

    raises : ConfigurationError where a file has its name; RunFolderBusyError where another process writes there
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigurationError(f"{path} cannot be a folder for results: {error.strerror}; name another") from None
    context.with_resource(held(path))


class Bar:
    """A progress bar as a function of (done, all)."""

    def __init__(self, total: int, what: str) -> None:
        from tqdm.auto import tqdm

        self.bar = tqdm(total=total, desc=what, unit="frame")

    def __enter__(self) -> Any:
        return lambda done, total: self.bar.update(done - self.bar.n)

    def __exit__(self, *error: object) -> None:
        self.bar.close()
