"""What growth.py asks and how it is timed: a point between two measurements of the ceilings.

A point is a prompt of n tokens or a decode step of some streams at a context, of one shape, format and number
of threads. Out: Row, with every try; predictions are made from rows afterwards. Knows no files.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache

from growth_models import GREEDY, STEP_TOKENS, blocks_for, outline

from narrows import _core
from narrows.engine.step import SequenceStep, Step
from narrows.machine.bandwidth import last_level_cache_bytes
from narrows.models import costs
from narrows.models.step_time import Ceilings, Rates, cached_share, op_seconds
from narrows.runners.cpu import CpuRunner

WORK_S = 0.5  # of a try
STEADY = 0.15  # the most the ceilings before and after a try may differ
MAX_TRIES = 5
DRAM_BYTES = 128 << 20  # past the cache; what is smaller is measured over its own size
LEAST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Point:
    """`kind` "prefill": `tokens` of a prompt; "decode": one token of each of `streams` at `context`."""

    shape: str
    weights: str
    threads: int
    kind: str
    tokens: int = 1
    context: int = 0
    streams: int = 1

    @property
    def num_blocks(self) -> int:
        return self.streams * blocks_for(self.context + self.tokens)

    def chunks(self) -> list[tuple[costs.Chunk, ...]]:
        """The steps of one unit of work."""
        if self.kind == "prefill":
            return costs.prefill(self.tokens, max_step_tokens=STEP_TOKENS)
        return [costs.decode(self.streams, self.context)]


@dataclass(frozen=True, slots=True)
class Try:
    """Medians of one try, and the means of the ceilings around it."""

    seconds: float  # of one unit: the prompt, or the step
    units: int
    gb_per_s: float
    gmac_per_s: float
    steady: bool
    groups: dict[str, float]  # seconds of a unit by operator group, as thread 0 saw them


@dataclass(frozen=True, slots=True)
class Row:
    point: Point
    tries: list[Try] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return {**asdict(self.point), "tries": [asdict(one) for one in self.tries]}

    @classmethod
    def from_json(cls, values: dict[str, object]) -> Row:
        point = Point(**{name: values[name] for name in Point.__slots__})  # type: ignore[arg-type]
        return cls(point, [Try(**one) for one in values["tries"]])  # type: ignore[attr-defined]

    @property
    def used(self) -> list[Try]:
        """The tries between equal ceilings, or all where there was none."""
        return [one for one in self.tries if one.steady] or self.tries

    def middle(self, rates: Rates) -> tuple[Try, float]:
        """(medians over the tries, predicted seconds): their quotient is the median one."""
        tries = self.used
        seconds = statistics.median(one.seconds for one in tries)
        ratio = statistics.median(predict(self.point, one, rates) / one.seconds for one in tries)
        middle = replace(
            tries[0],
            seconds=seconds,
            gb_per_s=statistics.median(one.gb_per_s for one in tries),
            gmac_per_s=statistics.median(one.gmac_per_s for one in tries),
        )
        return middle, seconds * ratio


@cache
def operators(point: Point) -> tuple[tuple[costs.OpCost, int], ...]:
    """The operators of one unit, equal ones once with their number."""
    known = outline(point.shape, point.weights)
    steps = [
        costs.step_costs(
            known.spec,
            known.recipe,
            chunks,
            kv=tuple(layer.kv for layer in known.attention),
            int8_attention=known.attention[0].int8_prompts,
        )
        for chunks in point.chunks()
    ]
    return tuple(Counter(op for ops in steps for op in ops).items())


def predict_groups(point: Point, measured: Try, rates: Rates) -> dict[str, float]:
    """Seconds of a unit by operator group, under the ceilings of a try."""
    cached = cached_share(step_bytes(point), last_level_cache_bytes())
    ceilings = Ceilings(measured.gb_per_s, measured.gmac_per_s, point.threads, cached)
    seconds = dict.fromkeys(costs.GROUPS, 0.0)
    for op, count in operators(point):
        seconds[op.group] += count * op_seconds(op, ceilings, rates)
    return dict(seconds)


def predict(point: Point, measured: Try, rates: Rates) -> float:
    """Seconds of a unit under the ceilings of a try."""
    return len(point.chunks()) * rates.step_s + sum(predict_groups(point, measured, rates).values())


@cache
def step_bytes(point: Point) -> int:
    """What a step reads at most: the weights, and the pages of the last chunk."""
    known = outline(point.shape, point.weights)
    ops = costs.step_costs(known.spec, known.recipe, point.chunks()[-1])
    return sum(op.read_bytes for op in ops)


class Clock:
    """Times points on one runner; `pool` has the runner's number of threads."""

    def __init__(self, runner: CpuRunner, pool: _core.ThreadPool) -> None:
        self.runner, self.pool = runner, pool

    def ceilings(self, num_bytes: int) -> tuple[float, float]:
        repeats = 3 if num_bytes == DRAM_BYTES else 20
        return (
            _core.read_bandwidth(num_bytes, repeats, self.pool),
            _core.int8_peak(0.02, self.pool),
        )

    def once(self, point: Point) -> Try:
        """Ceilings, at least WORK_S of units, ceilings."""
        num_bytes = min(max(step_bytes(point), LEAST_BYTES), DRAM_BYTES)
        unit = self.prompt(point) if point.kind == "prefill" else self.step(point)
        if point.kind == "decode":
            unit()  # caches and pages; a prompt's first chunk does that for itself
        before = self.ceilings(num_bytes)
        self.runner.op_times()
        seconds: list[float] = []
        while sum(seconds) < WORK_S:
            begin = time.perf_counter()
            unit()
            seconds.append(time.perf_counter() - begin)
        groups = {group: value / len(seconds) for group, value in self.runner.op_times().items()}
        after = self.ceilings(num_bytes)
        means = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
        spread = max(abs(a - b) / mean for a, b, mean in zip(before, after, means, strict=True))
        return Try(statistics.median(seconds), len(seconds), *means, spread <= STEADY, groups)

    def measure(self, points: list[Point], rounds: int) -> list[Row]:
        """Every point once a round, so that a bad minute meets all alike; unsteady ones again at the end."""
        rows = [Row(point) for point in points]
        for _ in range(rounds):
            for row in rows:
                row.tries.append(self.once(row.point))
        for row in rows:
            while sum(one.steady for one in row.tries) < min(2, rounds) and len(row.tries) < MAX_TRIES:
                row.tries.append(self.once(row.point))
        return rows

    def step(self, point: Point) -> Callable[[], object]:
        """A decode step that is repeated in place: the same position, the same context every time."""
        each = blocks_for(point.context + 1)
        for stream in range(point.streams):
            self.runner.remove(stream)
            self.runner.add(stream, GREEDY, (1,))
        step = Step(
            tuple(
                SequenceStep(i, (1,), point.context, tuple(range(i * each, (i + 1) * each)), True)
                for i in range(point.streams)
            )
        )
        return lambda: self.runner.run(step)

    def prompt(self, point: Point) -> Callable[[], object]:
        ids = tuple(i % 4096 for i in range(point.tokens))
        blocks = tuple(range(blocks_for(point.tokens)))
        self.runner.remove(0)
        self.runner.add(0, GREEDY, ids)
        steps = [
            Step(
                (
                    SequenceStep(
                        0,
                        ids[chunk.start : chunk.start + chunk.num_tokens],
                        chunk.start,
                        blocks,
                        chunk.num_logits > 0,
                    ),
                )
            )
            for (chunk,) in point.chunks()
        ]

        def run() -> None:
            for step in steps:
                self.runner.run(step)

        return run
