"""What ends a bench early. In: signals. Out: a set event (what was measured is kept) or KeyboardInterrupt (it
is not).

The first Ctrl-C, SIGTERM or SIGHUP ends the load, a second one the bench. In other threads than the main one
(a test's) signals are left alone.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopping(stop: asyncio.Event) -> Iterator[None]:
    """While it lasts, the first signal sets `stop` of the running loop; the next one does what it did
    before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {name: signal.getsignal(name) for name in ENDING}

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(name, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        restore()
        loop.call_soon_threadsafe(stop.set)

    for name in ENDING:
        signal.signal(name, on_signal)
    try:
        yield
    finally:
        restore()


@contextmanager
def ending_like_ctrl_c() -> Iterator[None]:
    """While it lasts, SIGTERM and SIGHUP raise KeyboardInterrupt: dying of them would leave a child
    behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, signal.default_int_handler) for name in ENDING[1:]}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
