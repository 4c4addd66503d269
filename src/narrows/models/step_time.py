"""How long a step takes on a machine: the costs of costs.py against ceilings that were measured there.

In: OpCosts, Ceilings (two measured numbers and the threads), Rates (how near to the ceilings the kernels
come). Out: seconds per group of operators. Plain numbers in and out: it measures nothing and imports no
machine. It lives beside the costs because a formula belongs to the operators it describes; the ceilings
belong to machine/.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from narrows.models.costs import FEW_ROWS, GROUPS, Group, OpCost

FLOAT_LANES: Final = 4  # int8 multiply-adds one instruction does for each fp32 one
SMALL_ROWS: Final = 16  # rows up to which a matrix streams through registers once; more go through the tile
QUANTIZED: Final = ("p8", "p44", "p4")
OVERLAP: Final = (
    3.0  # 1: memory and multipliers wait for each other; infinite: the slower one hides the other
)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the machine was measured to do with `threads` threads, near in time to the step."""

    gb_per_s: float  # reads (1e9 bytes) over as many bytes as the step reads: a small model lives in a cache
    gmac_per_s: float  # int8 multiply-adds (1e9) in registers
    threads: int = 1
    cached: float = 0.0  # share of these bytes that a cache holds from step to step


@dataclass(frozen=True, slots=True)
class Rates:
    """How near the kernels come to the ceilings; fitted by benchmarks/growth.py --calibrate.

    Fractions are of a ceiling; `*_macs` are costs in int8 multiply-adds, so that they follow the clock.
    The defaults were fitted on two cores of Zen 4 with AVX-512 VNNI.
    """

    stream: float = 0.86  # of the bandwidth, by weights that are read once
    unpack_macs: float = 2.0  # per weight and pass over it, before the first row multiplies
    small: float = 0.84  # of the integer peak, by the kernel of up to 16 rows
    tile: float = 0.86  # of the integer peak, by the tile of more rows
    group_macs: float = 12.0  # per group of weights and row: its scales
    floats: float = 0.8  # of the fp32 peak, by float weights
    page_gb_per_s: float = 16.0  # of a thread over keys and values in memory: it waits for its own misses
    attend_pages: float = 0.46  # of the fp32 peak, by attention of few rows over fp16 pages
    attend_floats: float = 0.92  # of the fp32 peak, by attention of many rows
    score_macs: float = 133.0  # per score in integers: softmax, scales, rounding; its products use the tile
    attend_bytes: float = 0.8  # of the integer peak, by the two products of each byte of 8-bit pages
    byte_score_macs: float = 300.0  # per score over them
    head_macs: float = 78.0  # per byte of queries, keys and results: norms, rope, rounding, keys into pages
    activation_macs: float = 18.0  # per byte of activations: norms, rounding, gates
    logit_macs: float = 20.0  # per byte of logits and embeddings
    stage_s: float = 4.7e-7  # a barrier between threads
    step_s: float = 9e-7  # outside the threads: marshalling, waking them


def cached_share(step_bytes: int, cache_bytes: int) -> float:
    """1 where all that a step reads fits the cache; far less than the quotient beyond.

    Steps read in a circle: what they come back to has just been thrown out.
    """
    return min(1.0, (cache_bytes / max(step_bytes, 1)) ** 2)


def step_seconds(ops: Iterable[OpCost], ceilings: Ceilings, rates: Rates) -> float:
    """The whole step."""
    return rates.step_s + sum(op_seconds(op, ceilings, rates) for op in ops)


def group_seconds(ops: Iterable[OpCost], ceilings: Ceilings, rates: Rates) -> dict[Group, float]:
    """As Transformer.op_times() reports them: what happens outside the threads is not included."""
    seconds: dict[Group, float] = dict.fromkeys(GROUPS, 0.0)
    for op in ops:
        seconds[op.group] += op_seconds(op, ceilings, rates)
    return seconds


def op_seconds(op: OpCost, ceilings: Ceilings, rates: Rates) -> float:
    """One operator: memory and multipliers side by side, then what overlaps with neither."""
    if op.group == "attention":
        work = _attention_seconds(op, ceilings, rates)
    elif op.group == "other":
        work = rates.logit_macs * op.activation_bytes / _macs_per_s(ceilings)
    else:
        work = _linear_seconds(op, ceilings, rates)
    return work + (op.stages * rates.stage_s if ceilings.threads > 1 else 0.0)  # nobody waits for itself


def _side_by_side(*seconds: float) -> float:
    """Seconds of loads and multiplications that overlap: worst where they take equally long."""
    return float(sum(part**OVERLAP for part in seconds) ** (1 / OVERLAP))


def _macs_per_s(ceilings: Ceilings) -> float:
    return ceilings.gmac_per_s * 1e9


def _linear_seconds(op: OpCost, ceilings: Ceilings, rates: Rates) -> float:
    if op.rows == 0:
        return 0.0
    peak = _macs_per_s(ceilings)
    per_row = op.macs / op.rows
    if op.format in QUANTIZED:
        share = rates.small if op.rows <= SMALL_ROWS else rates.tile
        unpack = rates.unpack_macs if op.format in ("p44", "p4") else 0.0
        scaling = 1 + rates.group_macs / op.group_size
        compute = per_row * (unpack + op.rows * scaling / share) / peak
    else:
        compute = per_row * op.rows * FLOAT_LANES / (rates.floats * peak)
    memory = op.weight_bytes / (rates.stream * ceilings.gb_per_s * 1e9)
    return _side_by_side(memory, compute) + _activation_seconds(op, ceilings, rates)


def _attention_seconds(op: OpCost, ceilings: Ceilings, rates: Rates) -> float:
    """Bandwidth, each thread's own waiting for its pages, and multipliers, side by side."""
    peak = _macs_per_s(ceilings)
    shared = op.kv_read_bytes / (ceilings.gb_per_s * 1e9)
    alone = (1 - ceilings.cached) * op.kv_read_bytes / (rates.page_gb_per_s * ceilings.threads * 1e9)
    if op.attention == "integers":
        compute = (op.macs / rates.tile + op.scores * rates.score_macs) / peak
    elif op.attention == "bytes":
        compute = (2 * op.macs / rates.attend_bytes + op.scores * rates.byte_score_macs) / peak
    else:
        share = rates.attend_pages if op.attention == "pages" else rates.attend_floats
        compute = op.macs * FLOAT_LANES / (share * peak)
    work = _side_by_side(shared, alone, compute) + rates.head_macs * op.activation_bytes / peak
    # Whole tasks: five of them take two threads as long as six would.
    idle = -(-op.tasks // ceilings.threads) * ceilings.threads / op.tasks if op.tasks else 1.0
    return work * idle


def _activation_seconds(op: OpCost, ceilings: Ceilings, rates: Rates) -> float:
    repeated = ceilings.threads if op.rows <= FEW_ROWS else 1  # few rows are prepared by every thread
    return rates.activation_macs * op.activation_bytes * repeated / _macs_per_s(ceilings)
