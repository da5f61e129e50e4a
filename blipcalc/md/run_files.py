"""Keep the files of a run in step with its checkpoints: trajectory, breached frames, history, events."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ase import Atoms

from blipcalc.errors import ConfigurationError, DamagedFileError
from blipcalc.files.checksums import cut, n_parts, sums_of, verify
from blipcalc.files.locks import held
from blipcalc.io import read, write
from blipcalc.monitor.actions import AskReference, Record
from blipcalc.monitor.observer import UncertaintyMonitor

#: names in a run folder
TRAJECTORY, HISTORY, EVENTS, SUMMARY = "trajectory.traj", "history.csv", "events.jsonl", "summary.json"
#: key in ``info`` of a frame's step, in a trajectory and in a file of breached frames
STEP, BREACH_STEP = "step", "breach_step"


class RunFiles:
    """Files of a run, except checkpoints and summary.

    folder : of the run; trajectory : its file, possibly outside the folder; monitor : holds the paths of the others
    """

    def __init__(self, folder: Path, trajectory: Path | None, monitor: UncertaintyMonitor) -> None:
        self.folder, self.trajectory, self.monitor = folder, trajectory, monitor

    def save(self) -> dict[str, int]:
        """Write all files to disk; return {file: number of frames, rows or events}, for the checkpoint."""
        self.monitor.history.keep_csv(self.folder / HISTORY)
        sync(*(path for path, _ in self._of_frames()))
        return self._counts()

    def begin(self) -> None:
        """Start with empty files; raises :class:`ConfigurationError` for existing files outside the folder."""
        events = self.monitor.events
        paths = [path for path, _ in self._of_frames()]
        for path in paths if events is None else [*paths, events.path]:
            if path.exists() and not self._is_inside(path):
                raise ConfigurationError(
                    f"{path} is there already, and the run in {self.folder} begins: it would be cut to nothing. Give each run "
                    "in a folder files of its own, or move it away"
                )
        self._cut(-1, None)
        (self.folder / HISTORY).unlink(missing_ok=True)

    def go_back(self, step: int, then: Mapping[str, int] | None, *, accept_gaps: bool) -> None:
        """Cut the files back to a checkpoint.

        Parameters
        ----------
        step, then : step of the checkpoint, and the result of :meth:`save` there; None to empty the files
        accept_gaps : continue if part of their content is missing

        Raises
        ------
        DamagedFileError : content is missing, or was changed after it was written
        """
        self._cut(step, then)
        self.monitor.history.load_csv(self.folder / HISTORY, last_step=step)
        lost = {name: (n, (then or {})[name]) for name, n in self._counts().items() if n < (then or {}).get(name, 0)}
        if lost and not accept_gaps:
            raise DamagedFileError(
                f"{self.folder}: fewer frames, rows or events than at the last checkpoint: {lost} (now, then); was a file "
                "repaired, or moved away? With go_on=True (--go-on) the run goes on and the gap stays; else give another folder"
            )

    def _cut(self, step: int, then: Mapping[str, int] | None) -> None:
        for path, key in self._of_frames():
            cut_frames(path, step, 0 if then is None else then.get(self._name(path)), key)
        if self.monitor.events is not None:
            self.monitor.events.cut(step)

    def _of_frames(self) -> Iterator[tuple[Path, str]]:
        return files_of_frames(self.trajectory, self.monitor)

    def _counts(self) -> dict[str, int]:
        found = {self._name(path): n_parts(path) for path, _ in self._of_frames()}
        found[HISTORY] = len(self.monitor.history)
        events = self.monitor.events
        return found if events is None else found | {self._name(events.path): events.count}

    def _is_inside(self, path: Path) -> bool:
        return self.folder.resolve() in path.resolve().parents

    def _name(self, path: Path) -> str:
        """Return the name of a file in a checkpoint: relative for files in the folder, so that the folder can be moved."""
        return str(path.resolve().relative_to(self.folder.resolve())) if self._is_inside(path) else str(path)


def files_of_frames(trajectory: Path | None, monitor: UncertaintyMonitor) -> Iterator[tuple[Path, str]]:
    """Yield (file of frames that a run writes, key of a frame's step)."""
    if trajectory is not None:
        yield trajectory, STEP
    for action in monitor.actions:
        if isinstance(action, Record | AskReference) and action.path is not None:
            yield Path(action.path), BREACH_STEP


@contextlib.contextmanager
def files_held(folder: Path | None, trajectory: Path | None, monitor: UncertaintyMonitor) -> Iterator[None]:
    """Lock the files of a run, also those outside its folder, against other writers.

    raises : FileBusyError for a file locked by another process
    """
    paths = [path for path, _ in files_of_frames(trajectory, monitor)]
    paths += [] if monitor.events is None else [monitor.events.path]
    paths += [] if folder is None else [folder / HISTORY]
    with contextlib.ExitStack() as all_of_them:
        for path in sorted({path.resolve() for path in paths}):
            all_of_them.enter_context(held(path))
        yield


def cut_frames(path: Path, step: int, n_frames: int | None, key: str) -> None:
    """Cut a file of frames back to a checkpoint, and check that the rest is as it was written.

    Later frames may be incomplete, or lack checksums: the run writes them again.

    step, n_frames : of the checkpoint; -1 and 0 without one, ``n_frames`` None for a file that the checkpoint does not list
    key : of the step in ``info``, by which files without checksums are cut
    raises : ConfigurationError for frames without a step, DamagedFileError for a file changed after it was written
    """
    if not path.exists():
        return
    if n_parts(path):
        if n_frames is not None:
            cut(path, n_frames)
        verify(path)
        return
    frames = read(path, ":")
    kept = _kept(frames, path, step, key)
    if kept:
        write(path, frames[:kept])
    else:
        path.unlink()


def _kept(frames: Sequence[Atoms], path: Path, step: int, key: str) -> int:
    """Return the number of leading frames up to and including a step."""
    kept = len(frames)
    while kept:
        last = frames[kept - 1].info.get(key)
        if last is None:
            raise ConfigurationError(f"{path} holds a frame that does not say its step ({key}); move it away")
        if last <= step:
            break
        kept -= 1
    return kept


def sync(*paths: Path) -> None:
    """Wait until files and their checksums are on disk."""
    for file in (*paths, *map(sums_of, paths)):
        if file.exists():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
