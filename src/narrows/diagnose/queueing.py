"""What a rate of arrivals does to a machine of this speed: how many requests run at once, how long one waits.

In: requests per second and the figures of a closed loop by streams. Out: Queueing. Little's law gives the
streams; the wait is that of a queue with one server (Pollaczek and Khinchine's formula), an estimate, as
batching lets requests overlap.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

STREAMS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Queueing:
    """Under `rate` requests per second."""

    rate: float
    capacity: float  # requests per second at most
    streams: int | None  # under way on average; None: more come than can be served
    wait_s: float | None  # before the first step; None: it grows without end

    @property
    def utilisation(self) -> float:
        return self.rate / self.capacity


def queueing(
    rate: float, requests_per_s: Callable[[int], float], lengths: Sequence[float], *, max_running: int
) -> Queueing:
    """`requests_per_s(streams)`: served in a closed loop. `lengths`: of requests, in any unit."""
    served = {streams: requests_per_s(streams) for streams in STREAMS if streams <= max_running}
    capacity = max(served.values())
    if rate >= capacity:
        return Queueing(rate, capacity, None, None)
    streams = min(streams for streams, throughput in served.items() if throughput >= rate)
    load, service_s = rate / capacity, 1 / capacity
    wait_s = load / (1 - load) * service_s * (1 + _variation(lengths)) / 2
    return Queueing(rate, capacity, streams, wait_s)


def _variation(lengths: Sequence[float]) -> float:
    """Squared coefficient of variation; 0 of a single length."""
    if len(lengths) < 2:
        return 0.0
    mean = statistics.fmean(lengths)
    return statistics.pvariance(lengths, mean) / mean**2 if mean else 0.0
