"""What the multipliers of this CPU can do, in integers and in floats, with every instruction set we have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from narrows import _core
from narrows.machine.profile import Peak

TRIES: Final = 12  # short ones, and the best counts: one of them is undisturbed
TRY_S: Final = 3e-3


def measure_peaks(isas: Sequence[str], threads: int) -> tuple[Peak, ...]:
    """Multiply-adds per second of all threads at once; integers and floats in turns, in the same noise."""
    pool = _core.ThreadPool(threads)
    peaks = []
    for isa in isas:
        integers, floats = [], []
        for _ in range(TRIES):
            integers.append(_core.int8_peak(TRY_S, pool, isa))
            floats.append(_core.fp32_peak(TRY_S, pool, isa))
        peaks.append(Peak(isa, max(integers), max(floats)))
    return tuple(peaks)
