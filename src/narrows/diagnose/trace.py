"""Runs a model's loads with the per-operator timers of the native core: where the time of a step goes.

In: a runner with timers and a Setup. Out: seconds by group of one unit of each load. The clock can be
another one, and so can the runner: it only needs the Protocol.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from narrows.diagnose.predict import OUTSIDE
from narrows.diagnose.setup import Load, Setup, steps_of
from narrows.engine.step import RunnerInfo, SamplingParams, SequenceStep, Step, StepResult
from narrows.errors import OutOfMemory
from narrows.models.costs import Chunk

WORK_S: Final = 0.4  # of units of a load, at least
LEAST_UNITS: Final = 3
LONG_UNIT_S: Final = 2.0  # such units are run once
GREEDY: Final = SamplingParams(temperature=0.0)
SAMPLED: Final = SamplingParams(temperature=0.8, top_p=0.95, top_k=40, seed=1)
PLAIN_IDS: Final = 4096  # ids are counted through, no further than this
Clock = Callable[[], float]


class TimedRunner(Protocol):
    """A Runner that keeps the seconds of its operators."""

    @property
    def info(self) -> RunnerInfo: ...
    def add(self, request_id: int, params: SamplingParams, prompt_ids: tuple[int, ...]) -> None: ...
    def run(self, step: Step) -> StepResult: ...
    def remove(self, request_id: int) -> None: ...
    def op_times(self) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True)
class Timed:
    """Medians of one unit's seconds. `groups` add up to `seconds`, with OUTSIDE."""

    seconds: float
    units: int
    groups: dict[str, float]


class Tracer:
    """Times loads on one runner; the runner's other requests must have ended."""

    def __init__(self, runner: TimedRunner, clock: Clock = time.perf_counter) -> None:
        self._runner = runner
        self._clock = clock
        self._touched = 0

    def measure(
        self, setup: Setup, load: Load, *, params: SamplingParams = GREEDY, work_s: float = WORK_S
    ) -> Timed:
        """At least `work_s` of units, after one that warms caches; OutOfMemory where pages do not suffice."""
        steps = self._steps(setup, load)
        ids = range(max(len(step.sequences) for step in steps))
        for request_id in ids:
            self._runner.add(request_id, params, (1,))
        try:
            self._unit(steps)
            self._runner.op_times()
            seconds: list[float] = []
            while sum(seconds) < work_s or len(seconds) < LEAST_UNITS:
                seconds.append(self._unit(steps))
                if seconds[-1] >= LONG_UNIT_S:
                    break
            inside = self._runner.op_times()
        finally:
            for request_id in ids:
                self._runner.remove(request_id)
        return _timed(seconds, inside)

    def _unit(self, steps: Iterable[Step]) -> float:
        began_s = self._clock()
        for step in steps:
            self._runner.run(step)
        return self._clock() - began_s

    def _steps(self, setup: Setup, load: Load) -> list[Step]:
        """A unit's steps in blocks of their own; run again they write the same places."""
        planned = steps_of(setup, load)
        rows = planned[0] if len(planned) == 1 else planned[-1]
        places = list(self._places(rows))
        self._touch(places[-1][-1] + 1)
        return [
            Step(
                tuple(
                    _sequence(i, chunk, place, setup.spec.vocab)
                    for i, (chunk, place) in enumerate(zip(step, places, strict=True))
                )
            )
            for step in planned
        ]

    def _places(self, chunks: Iterable[Chunk]) -> Iterator[tuple[int, ...]]:
        size, begin = self._runner.info.block_size, 0
        for chunk in chunks:
            count = -(-(chunk.start + chunk.num_tokens) // size)
            if begin + count > self._runner.info.num_blocks:
                raise OutOfMemory(
                    f"the workload needs more than {self._runner.info.num_blocks} blocks of {size} tokens "
                    "for keys and values; choose fewer streams (--concurrency)"
                )
            yield tuple(range(begin, begin + count))
            begin += count

    def _touch(self, num_blocks: int) -> None:
        """Writes one token into each new block: pages that nobody wrote are not there to be read."""
        most = min(self._runner.info.max_step_tokens, 512)
        while self._touched < num_blocks:
            blocks = range(self._touched, min(self._touched + most, num_blocks))
            for block in blocks:
                self._runner.add(block, GREEDY, (1,))
            self._runner.run(Step(tuple(SequenceStep(b, (1,), 0, (b,), False) for b in blocks)))
            for block in blocks:
                self._runner.remove(block)
            self._touched = blocks.stop


def _sequence(request_id: int, chunk: Chunk, place: tuple[int, ...], vocab: int) -> SequenceStep:
    ids = tuple(
        (chunk.start + i) % min(vocab, PLAIN_IDS) for i in range(chunk.num_tokens)
    )
    return SequenceStep(request_id, ids, chunk.start, place, chunk.num_logits > 0)


def _timed(seconds: list[float], inside: dict[str, float]) -> Timed:
    """Timers give sums: they are scaled to the median unit, which a neighbour's burst does not move."""
    median, mean = statistics.median(seconds), statistics.fmean(seconds)
    scale = median / mean / len(seconds) if mean > 0 else 0.0
    groups = {group: value * scale for group, value in inside.items()}
    groups[OUTSIDE] = max(0.0, median - sum(groups.values()))
    return Timed(median, len(seconds), groups)
