"""Turn SIGTERM and Ctrl-C into a request to end, which a run grants after a whole step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def told_of_signals(received: Callable[[int], None]) -> Iterator[None]:
    """Call a function on SIGTERM and on the first Ctrl-C instead of ending; the second Ctrl-C interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: object) -> None:
        received(number)
        signal.signal(number, before[number])

    before = {int(number): signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
