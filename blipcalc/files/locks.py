"""One writer at a time: every file that is added to or replaced, and every run folder, is held while somebody writes.

The lock is on a hidden file beside it, ``.name.lock``, or ``.lock`` within a folder; for what is replaced by renaming is another
file afterwards, and a lock on it would keep nobody away.  It goes with the process, however that ends, and the hidden file with
the lock; one that a killed process left is taken over by the next writer, and goes with that one's lock.

On network file systems these are locks of byte ranges, which Linux passes on to the server.  Where a file system has none, as on
Windows, a file is held against threads of this process alone; a :class:`~blipcalc.errors.NoLockWarning` says so.
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

#: within a folder
LOCK = ".lock"
#: s; who adds a frame is done before
PATIENCE = 20.0
#: s between two looks at a lock
PAUSE = 0.01
#: what a file system without locks says
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_guard = threading.Lock()
#: who in this process holds what: {file or folder: (process, thread)}
_owners: dict[Path, tuple[int, int]] = {}


@contextlib.contextmanager
def held(path: str | Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold a file, which need not be there yet, or a folder against all others: processes, and threads of this one.

    patience : s to wait where somebody else holds it

    raises : FileBusyError, or RunFolderBusyError for a folder, where somebody still does
    """
    place = Path(path).resolve()  # a link and what it leads to are one file
    lock = _taken(place, time.monotonic() + patience)
    try:
        yield
    finally:
        _given_back(place, lock)


@contextlib.contextmanager
def adding(path: str | Path) -> Iterator[None]:
    """Hold a file for as long as it takes to add to it or to replace it; a thread that holds it already goes on.

    raises : FileBusyError where somebody else holds it for longer, such as a run that writes to it
    """
    if _owners.get(Path(path).resolve()) == _me():
        yield
        return
    with held(path, patience=PATIENCE):
        yield


def lock_open_file(file: IO[Any], *, wait: bool = False) -> bool:
    """Lock an open file until it is closed, or its process ends; False where the system or the file system has no locks.

    raises : BlockingIOError where another has locked it; with ``wait`` its end is waited for
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
    """The locked file; None where there are no locks."""
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
    """A locked file, made where it is not there; None where there are no locks; raises BlockingIOError where it is locked."""
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
        # who held it has removed it meanwhile: a lock on a file that is gone keeps nobody away
        file.close()


def _given_back(place: Path, lock: IO[Any] | None) -> None:
    with _guard:
        _owners.pop(place, None)
        if lock is not None:
            Path(lock.name).unlink(missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open still
            lock.close()


def _busy(place: Path) -> BusyError:
    if place.is_dir():
        return RunFolderBusyError(f"another process runs in {place}; wait for its end, or give another folder")
    return FileBusyError(
        f"somebody else writes to {place}: another run, process or thread; wait for its end, or give another file"
    )
