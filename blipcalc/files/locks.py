"""Locks for files and run folders: one writer at a time.

The lock is on a hidden file beside it, ``.name.lock``, or ``.lock`` within a folder, since a file replaced by renaming is another
file afterwards, and a lock on it would have no effect.  The lock ends with the process in any case, and the hidden file with the
lock; the next writer takes over the hidden file of a killed process, and removes it with its own lock.

On network file systems these are locks of byte ranges, which Linux passes on to the server.  Without such locks, as on Windows,
a file is locked against threads of this process alone, with a :class:`~blipcalc.errors.NoLockWarning`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from blipcalc.errors import BusyError, FileBusyError, NoLockWarning, RunFolderBusyError, warn_user

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # a module or nothing

#: name of the hidden file within a folder
LOCK = ".lock"
#: s; longer than any addition of a frame
PATIENCE = 20.0
#: s between two attempts at a lock
PAUSE = 0.01
#: error numbers of a file system without locks
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_guard = threading.Lock()
#: owners in this process: {file or folder: (process, thread)}
_owners: dict[Path, tuple[int, int]] = {}


@contextlib.contextmanager
def held(path: str | Path, *, patience: float = 0.0) -> Iterator[None]:
    """Lock a file, which need not exist yet, or a folder against other processes, and other threads of this process.

    patience : s to wait for another owner

    raises : FileBusyError, or RunFolderBusyError for a folder, where another owner remains
    """
    place = Path(path).resolve()  # a link and its target are one file
    lock = _taken(place, time.monotonic() + patience)
    try:
        yield
    finally:
        _given_back(place, lock)


@contextlib.contextmanager
def adding(path: str | Path) -> Iterator[None]:
    """Lock a file during an addition or a replacement; a thread that already holds the lock continues.

    raises : FileBusyError where another owner holds it for longer, such as a run that writes to it
    """
    if _owners.get(Path(path).resolve()) == _me():
        yield
        return
    with held(path, patience=PATIENCE):
        yield


def lock_open_file(file: IO[Any], *, wait: bool = False) -> bool:
    """Lock an open file until it is closed or its process ends; return False where system or file system have no locks.

    raises : BlockingIOError for a locked file, unless ``wait``, which waits for the end of that lock
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _me() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _lock_of(place: Path) -> Path:
    return place / LOCK if place.is_dir() else place.with_name(f".{place.name}{LOCK}")


def _taken(place: Path, deadline: float) -> IO[Any] | None:
    """Return the locked file; None where there are no locks."""
    while True:
        try:
            with _guard:
                if _owners.get(place, (0, 0))[0] == os.getpid():
                    raise BlockingIOError
                lock = _locked(_lock_of(place))
                _owners[place] = _me()
                return lock
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _busy(place) from None
            time.sleep(PAUSE)


def _locked(path: Path) -> IO[Any] | None:
    """Return a locked file, created if needed; None where there are no locks; raises BlockingIOError for a file in use."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a")
        try:
            if not lock_open_file(file):
                file.close()
                path.unlink(missing_ok=True)
                warn_user(
                    f"{path.parent} lies on a file system without locks: nothing keeps another process from writing there too; "
                    "see to it that none does",
                    NoLockWarning,
                )
                return None
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return file
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            raise
        # the last owner removed it meanwhile: a lock on a removed file has no effect
        file.close()


def _given_back(place: Path, lock: IO[Any] | None) -> None:
    with _guard:
        _owners.pop(place, None)
        if lock is not None:
            Path(lock.name).unlink(missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_UN)  # a child forked meanwhile still has the file open
            lock.close()


def _busy(place: Path) -> BusyError:
    if place.is_dir():
        return RunFolderBusyError(f"another process runs in {place}; wait for its end, or give another folder")
    return FileBusyError(
        f"somebody else writes to {place}: another run, process or thread; wait for its end, or give another file"
    )
