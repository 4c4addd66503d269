"""A progress bar on stderr while a model is packed; silent where nobody looks or nothing takes long.

In: (done, total) tensors, from any thread. Out: a bar of rich's, shown only once packing has begun.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from narrows.engine.load import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


@contextmanager
def packing_progress() -> Iterator[Progress]:
    """A callback for the loader. Importing rich takes longer than mapping a cached model, so it waits for a
    call.
    """
    shown: list[Bar] = []

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
        for bar in shown:
            bar.stop()


def _start() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    return bar
