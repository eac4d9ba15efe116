"""Ctrl-C that is not lost.

Python raises ``KeyboardInterrupt`` wherever the main thread happens to be. Where that is a callback of the garbage
collector, a destructor, or a function that compiled code calls, the exception is reported at best and then dropped, and
the run would go on to its end. So the signal is remembered as well, and heeded at the next step of the work.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def remembered() -> Iterator[Callable[[], bool]]:
    """Say whether Ctrl-C came inside the block, where it acts at once as ever; only on the main thread.

    While the block runs, Python does not report that it has dropped a ``KeyboardInterrupt``: it is not lost.

    Yields
    ------
    Callable
        True once Ctrl-C came.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def remember(number: int, frame: Any) -> None:
        came.append(number)
        before(number, frame)

    report = sys.unraisablehook

    def drop(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            report(lost)

    signal.signal(signal.SIGINT, remember)
    sys.unraisablehook = drop
    try:
        yield lambda: bool(came)
    finally:
        sys.unraisablehook = report
        signal.signal(signal.SIGINT, before)


def heeding(listener: Callable[[Any], None], interrupted: Callable[[], bool]) -> Callable[[Any], None]:
    """A listener for ``Watch`` that ends the work at the next report of progress after a lost Ctrl-C.

    Parameters
    ----------
    listener
        Called with every event.
    interrupted
        Says whether Ctrl-C came.
    """

    def hear(event: Any) -> None:
        if interrupted():
            raise KeyboardInterrupt
        listener(event)

    return hear
