"""When requests are meant to leave. In: a rate and a shape. Out: seconds from the start, ascending.

Pure and seeded: the same arguments give the same times. Knows no requests.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from narrows.errors import InvalidConfig

Shape = Literal["poisson", "constant", "burst"]
SHAPES: tuple[Shape, ...] = ("poisson", "constant", "burst")
MAX_REQUESTS = 1_000_000


def arrival_times(
    shape: Shape,
    rate_per_s: float,
    *,
    num_requests: int | None,
    duration_s: float | None,
    seed: int,
    burst_size: int = 8,
) -> list[float]:
    """Times of at most `num_requests` requests before `duration_s`; at least one of the two limits.

    poisson: independent users, exponential gaps of mean 1 / rate. constant: one every 1 / rate. burst:
    `burst_size` at once every burst_size / rate, so the mean rate is the same.

    Raises InvalidConfig where the rate is not positive, or the limits allow no request or over a million.
    """
    if not rate_per_s > 0 or not np.isfinite(rate_per_s):
        raise InvalidConfig(f"a rate of {rate_per_s:g} requests/s sends nothing; give a positive one")
    count = _count(rate_per_s, num_requests, duration_s)
    if shape == "poisson":
        gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, count)
        times = np.cumsum(gaps)
    elif shape == "constant":
        times = np.arange(count) / rate_per_s
    else:
        times = (np.arange(count) // burst_size) * burst_size / rate_per_s
    kept = times if duration_s is None else times[times < duration_s]
    if len(kept) == 0:
        raise InvalidConfig(
            f"at {rate_per_s:g} requests/s none falls into {duration_s:g} s; raise --rate or --duration"
        )
    return [float(time_s) for time_s in kept]


def sweep_rates(text: str) -> list[float]:
    """ "1,2,4" → those; "1:8:4" → four rates from 1 to 8, each the same factor above the last.

    Raises InvalidConfig.
    """
    try:
        if ":" in text:
            low, high, steps = text.split(":")
            rates = np.geomspace(float(low), float(high), int(steps)).tolist() if int(steps) > 1 else []
        else:
            rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(np.isfinite(rate) and rate > 0 for rate in rates):
        raise InvalidConfig(f"--sweep {text!r} should be rates like 1,2,4 or LOW:HIGH:STEPS like 1:8:4")
    return [float(f"{rate:.4g}") for rate in rates]


def _count(rate_per_s: float, num_requests: int | None, duration_s: float | None) -> int:
    if duration_s is not None:
        # Six standard deviations above the mean: what is cut off then was never going to come.
        mean = rate_per_s * duration_s
        by_time = int(mean + 6 * mean**0.5 + 10)
        num_requests = by_time if num_requests is None else min(num_requests, by_time)
    assert num_requests is not None, "either a number of requests or a duration"
    if not 0 < num_requests <= MAX_REQUESTS:
        raise InvalidConfig(f"{num_requests} requests; a run has 1 to {MAX_REQUESTS:,}")
    return num_requests
