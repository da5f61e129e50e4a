"""The files of a run in its folder: trajectory, breached frames, history, events; at a checkpoint, and cut back to one."""

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
#: of the entry in ``info`` that says which step a frame is of, in a trajectory and in a file of breached frames
STEP, BREACH_STEP = "step", "breach_step"


class RunFiles:
    """All but checkpoints and summary.

    folder : of the run; trajectory : its file, which may lie elsewhere; monitor : names the others
    """

    def __init__(self, folder: Path, trajectory: Path | None, monitor: UncertaintyMonitor) -> None:
        self.folder, self.trajectory, self.monitor = folder, trajectory, monitor

    def save(self) -> dict[str, int]:
        """Bring all of them to the disk; gives {file: frames, rows or events that it holds}, for the checkpoint."""
        self.monitor.history.keep_csv(self.folder / HISTORY)
        sync(*(path for path, _ in self._of_frames()))
        return self._counts()

    def begin(self) -> None:
        """Begin anew; refuses files of another run with :class:`ConfigurationError`."""
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
        """Leave what was there at a checkpoint.

        Parameters
        ----------
        step, then : of the checkpoint, and what :meth:`save` gave; None to leave nothing
        accept_gaps : go on where something of it is gone

        Raises
        ------
        DamagedFileError : it is, or is not as it was written
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
        """Of a file in a checkpoint: those in the folder move with it."""
        return str(path.resolve().relative_to(self.folder.resolve())) if self._is_inside(path) else str(path)


def files_of_frames(trajectory: Path | None, monitor: UncertaintyMonitor) -> Iterator[tuple[Path, str]]:
    """(file of frames that a run writes, entry that says the step of each)."""
    if trajectory is not None:
        yield trajectory, STEP
    for action in monitor.actions:
        if isinstance(action, Record | AskReference) and action.path is not None:
            yield Path(action.path), BREACH_STEP


@contextlib.contextmanager
def files_held(folder: Path | None, trajectory: Path | None, monitor: UncertaintyMonitor) -> Iterator[None]:
    """Let nobody else write to the files of a run, which may lie outside its folder.

    raises : FileBusyError where somebody does
    """
    paths = [path for path, _ in files_of_frames(trajectory, monitor)]
    paths += [] if monitor.events is None else [monitor.events.path]
    paths += [] if folder is None else [folder / HISTORY]
    with contextlib.ExitStack() as all_of_them:
        for path in sorted({path.resolve() for path in paths}):
            all_of_them.enter_context(held(path))
        yield


def cut_frames(path: Path, step: int, n_frames: int | None, key: str) -> None:
    """Leave the frames of a file that were there at a checkpoint, and make sure that they are as they were written.

    What comes behind them may be torn, or lack its checksums: the run makes it again.

    step, n_frames : of the checkpoint; -1 and 0 without one, None for a file that it does not know
    key : of the step in ``info``, by which files without checksums are cut
    raises : ConfigurationError where the file is none of such a run, DamagedFileError where it is not as it was written
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
    """How many of the first frames are not behind a step."""
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
    """Wait until files, and their sums, are on the disk."""
    for file in (*paths, *map(sums_of, paths)):
        if file.exists():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
