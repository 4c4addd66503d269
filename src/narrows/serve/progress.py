"""A progress bar on stderr while a model is packed; silent where nobody looks or nothing takes long.

In: (done, total) tensors, from any thread. Out: a bar of tqdm's, shown only once packing has begun.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from narrows.engine.load import Progress


@contextmanager
def packing_progress() -> Iterator[Progress]:
    """A callback for the loader. tqdm is imported at its first call: a cached model never needs it."""
    shown: list[Any] = []

    def show(num_done: int, num_total: int) -> None:
        if num_done == 0 or not sys.stderr.isatty():  # 0: cached weights get this far, too
            return
        if not shown:
            from tqdm import tqdm

            shown.append(tqdm(desc="packing weights", total=num_total, unit="tensor", leave=False))
        shown[0].update(num_done - shown[0].n)

    try:
        yield show
    finally:
        for bar in shown:
            bar.close()
