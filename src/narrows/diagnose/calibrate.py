"""What a barrier between threads costs in this minute, from the operators of a decode step.

In: the seconds measured of a step's groups, what the cost model says of them. Out: Rates. Of the cost model's
constants this one is no property of the CPU alone: virtual cores reach each other sooner or later as the
hypervisor places them (docs/growth.md), and in short steps it is most of the time.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from narrows.diagnose.predict import CostModel
from narrows.diagnose.setup import Setup, operators
from narrows.models.step_time import Rates

MOST_S: Final = 5e-6  # what is beyond is no barrier
SHORT_S: Final = 2e-3  # longer steps hardly show a barrier: their excess has other reasons


def with_barriers(model: CostModel, setup: Setup, decode: Mapping[str, float]) -> Rates:
    """The model's rates with the barrier that explains most groups of `decode` (seconds of one step)."""
    if setup.threads < 2 or sum(decode.values()) > SHORT_S:
        return model.rates
    stages: dict[str, int] = {}
    for op, count in operators(setup, "decode"):
        stages[op.group] = stages.get(op.group, 0) + op.stages * count
    predicted = model.seconds(setup, "decode")
    excess = [
        (decode[group] - predicted[group]) / number
        for group, number in stages.items()
        if number and group in decode
    ]
    if not excess:
        return model.rates
    found = model.rates.stage_s + statistics.median(excess)
    return replace(model.rates, stage_s=min(MOST_S, max(model.rates.stage_s / 2, found)))
