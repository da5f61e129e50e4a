"""Find damage in a run folder, or in one file with checksums, and keep the undamaged part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blipcalc.errors import DataError, ModelFileError
from blipcalc.files.checksums import SUFFIX, Findings, inspect, repair, set_aside
from blipcalc.files.locks import adding, held
from blipcalc.files.run_folder import NEWEST, PREVIOUS
from blipcalc.files.safetensors_file import read_sealed


def repair_run(path: str | Path, *, dry_run: bool = False) -> dict[Path, tuple[bool, str]]:
    """Keep the part of every damaged file before the damage; the damaged file stays beside it as ``….damaged``.

    A damaged checkpoint is set aside, so that the run continues from the one before it.

    Parameters
    ----------
    path : a run folder, or one file with checksums
    dry_run : report only, without changes

    Returns
    -------
    {file: (whether it was whole, findings in words)}

    Raises
    ------
    RunFolderBusyError : another process runs in the folder, or writes to a file of it
    DataError : no such path, or nothing in it to check; DamagedFileError : a single file without checksums
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no such file or folder: {path}")
    if dry_run:
        return _findings(path, inspect)
    with held(path):
        return _findings(path, _repaired)


def _repaired(path: Path) -> Findings:
    with adding(path):
        return repair(path)


def _findings(path: Path, look: Callable[[Path], Findings]) -> dict[Path, tuple[bool, str]]:
    if not path.is_dir():
        found = look(path)
        return {path: (found.is_whole, str(found))}
    findings = {}
    for sums in sorted(path.glob(f"*{SUFFIX}")):
        file = Path(str(sums).removesuffix(SUFFIX))
        if file.name.startswith("."):  # left by a killed repair, and written again by the next one
            continue
        if not file.exists():
            findings[file] = (False, "it is not there, its checksums are")
            continue
        found = look(file)
        findings[file] = (found.is_whole, str(found))
    for name in (NEWEST, PREVIOUS):
        if (path / name).exists():
            findings[path / name] = _checkpoint(path / name, is_kept=look is inspect)
    if not findings:
        raise DataError(f"{path} holds no file with checksums and no checkpoint: is it a run folder?")
    return findings


def _checkpoint(path: Path, *, is_kept: bool) -> tuple[bool, str]:
    try:
        _, manifest = read_sealed(path)
    except ModelFileError as error:
        if not is_kept:
            set_aside(path)
        return False, str(error)
    return True, f"a checkpoint of step {manifest.get('step')}, whole"
