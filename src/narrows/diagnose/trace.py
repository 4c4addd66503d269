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
QUIET_PART: Final = 10  # a tenth of the units, the fastest, is what is told of
LONG_UNIT_S: Final = (
    1.5  # a unit that takes so long warms itself: it counts, and no more are run than need be
)
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
    """One unit, undisturbed: the median of the fastest tenth. `groups` add up to `seconds`, with OUTSIDE.

    Ceilings are the best of several tries, and so must be what is laid against them: on a machine that others
    use too, the median unit says more about them.
    """

    seconds: float
    units: int
    groups: dict[str, float]


class Tracer:
    """Times loads on one runner; the runner's other requests must have ended."""

    def __init__(self, runner: TimedRunner, clock: Clock = time.perf_counter) -> None:
        self._runner = runner
        self._clock = clock
        self._touched = 0

    @property
    def info(self) -> RunnerInfo:
        return self._runner.info

    def measure(
        self,
        setup: Setup,
        load: Load,
        *,
        params: SamplingParams = GREEDY,
        work_s: float = WORK_S,
        least: int = LEAST_UNITS,
    ) -> Timed:
        """At least `work_s` of units and `least` of them, after one that warms caches, unless it was long.

        OutOfMemory where the runner's pages do not suffice.
        """
        steps = self._steps(setup, load)
        ids = range(max(len(step.sequences) for step in steps))
        for request_id in ids:
            self._runner.add(request_id, params, (1,))
        try:
            self._runner.op_times()
            first_s = self._unit(steps)
            units = [(first_s, self._runner.op_times())]
            if first_s < LONG_UNIT_S:
                units.clear()
            spent_s = 0.0
            while spent_s < work_s or len(units) < least:
                if units and max(first_s, spent_s) >= LONG_UNIT_S:
                    break
                seconds = self._unit(steps)
                units.append((seconds, self._runner.op_times()))
                spent_s += seconds
        finally:
            for request_id in ids:
                self._runner.remove(request_id)
        return _timed(units)

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
    ids = tuple((chunk.start + i) % min(vocab, PLAIN_IDS) for i in range(chunk.num_tokens))
    return SequenceStep(request_id, ids, chunk.start, place, chunk.num_logits > 0)


def _timed(units: list[tuple[float, dict[str, float]]]) -> Timed:
    units = sorted(units, key=lambda unit: unit[0])
    fastest = units[: -(-len(units) // QUIET_PART)]
    seconds = statistics.median(unit_s for unit_s, _ in fastest)
    names = fastest[0][1]
    groups = {name: statistics.median(inside[name] for _, inside in fastest) for name in names}
    groups[OUTSIDE] = max(0.0, seconds - sum(groups.values()))
    return Timed(seconds, len(units), groups)
