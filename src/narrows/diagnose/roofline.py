"""Lays the seconds of operators against ceilings: which one is near, and how near.

In: a Setup's loads, seconds by group, the ceilings. Out: PhaseReports. Work is what the kernels do: bytes
read once, multiply-adds counted as int8 ones (a float one is worth four: models/step_time.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from narrows.diagnose.predict import OUTSIDE, CostModel, Seconds
from narrows.diagnose.setup import Load, Setup, operators, steps_of
from narrows.models.costs import GROUPS, OpCost
from narrows.models.step_time import FLOAT_LANES, QUANTIZED, Ceilings, Rates
from narrows.report import Ceiling, OpReport, PhaseReport, Source

NEAR: Final = 0.35  # of a ceiling: below it something else takes the time
FLOAT_ATTENTION: Final = ("pages", "floats")


@dataclass(frozen=True, slots=True)
class Work:
    """Of one group over one unit."""

    read_bytes: int = 0
    flops: int = 0
    macs: float = 0.0  # int8 ones
    kv_bytes: int = 0

    def plus(self, op: OpCost, count: int) -> Work:
        is_float = op.attention in FLOAT_ATTENTION or (op.format is not None and op.format not in QUANTIZED)
        return Work(
            self.read_bytes + count * op.read_bytes,
            self.flops + count * op.flops,
            self.macs + count * op.macs * (FLOAT_LANES if is_float else 1),
            self.kv_bytes + count * op.kv_read_bytes,
        )


def work_of(setup: Setup, load: Load) -> dict[str, Work]:
    """By group, of one unit."""
    found: dict[str, Work] = dict.fromkeys(GROUPS, Work())
    for op, count in operators(setup, load):
        found[op.group] = found[op.group].plus(op, count)
    return found


def nearest(work: Work, seconds: float, near: Ceilings, rates: Rates) -> tuple[Ceiling, float]:
    """(ceiling, fraction of it). Latency: of threads that wait for keys and values they miss."""
    if seconds <= 0:
        return "overhead", 0.0
    fractions: dict[Ceiling, float] = {
        "memory": work.read_bytes / seconds / (near.gb_per_s * 1e9),
        "compute": work.macs / seconds / (near.gmac_per_s * 1e9),
        "latency": (1 - near.cached) * work.kv_bytes / seconds / (rates.page_gb_per_s * near.threads * 1e9),
    }
    name = max(fractions, key=lambda ceiling: fractions[ceiling])
    return (name if fractions[name] >= NEAR else "overhead"), fractions[name]


def phase(setup: Setup, load: Load, seconds: Seconds, model: CostModel, source: Source) -> PhaseReport:
    """One unit of a load."""
    near = model.near(setup, load)
    total = sum(seconds.values())
    ops = []
    for group, work in work_of(setup, load).items():
        took = seconds.get(group, 0.0)
        # Rows that are looked up share cache lines: their bytes are an upper bound, no traffic.
        traffic = replace(work, read_bytes=0) if group == "other" else work
        ceiling, fraction = nearest(traffic, took, near, model.rates)
        share = took / total if total else 0.0
        ops.append(OpReport(group, took, share, work.read_bytes, work.flops, ceiling, fraction))
    steps = steps_of(setup, load)
    return PhaseReport(
        name=load,
        seconds=total,
        tokens=sum(chunk.num_tokens for step in steps for chunk in step),
        streams=1 if load == "prefill" else max(len(step) for step in steps),
        context=0 if load == "prefill" else setup.context,
        outside_s=seconds.get(OUTSIDE, 0.0),
        source=source,
        ops=tuple(ops),
    )
