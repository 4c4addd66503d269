"""A progress bar on stderr while a model is packed; silent where nobody looks or nothing takes long.

In: (done, total) bytes, from any thread. Out: a bar of rich's, shown only once packing has begun.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

ProgressCallback = Callable[[int, int], None]  # (bytes done, bytes in all)


@contextmanager
def packing_progress() -> Iterator[ProgressCallback]:
    """A callback for the loader. Importing rich takes longer than mapping a cached model, so it waits for a call."""
    shown: list[Progress] = []

    def show(num_done: int, num_total: int) -> None:
        if not sys.stderr.isatty():
            return
        if not shown:
            shown.append(_start())
            shown[0].add_task("packing weights", total=num_total)
        shown[0].update(shown[0].task_ids[0], completed=num_done, total=num_total)

    try:
        yield show
    finally:
        for progress in shown:
            progress.stop()


def _start() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    progress.start()
    return progress
