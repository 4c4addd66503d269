"""Asks every engine every question, round by round, and measures the ceilings between.

In: engines and how to start them; out: rows. A failing engine fails its rows, never the run.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import workers
from engines import OURS, Engine
from rows import (
    CONTEXT,
    KV_TOKENS,
    QUESTIONS,
    Ceilings,
    Question,
    Row,
    error_row,
    rate,
    rate_row,
    value_row,
)
from shapes import Shape
from workers import EngineError

from narrows import _core

SMALL = 1024  # tokens of KV where one short stream is asked for: cold start, memory


@dataclass(slots=True)
class Race:
    """One model, the engines that run it, and what they answered."""

    name: str
    shape: Shape
    folder: Path
    engines: Sequence[Engine]
    threads: int
    rounds: int
    converted: dict[Engine, float | None] = field(default_factory=dict)
    errors: dict[tuple[Engine, str], str] = field(default_factory=dict)  # "" for every question
    values: dict[tuple[Engine, str], list[float]] = field(default_factory=dict)
    num_bytes: dict[Engine, float] = field(default_factory=dict)
    bandwidths: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    def fail(self, engine: Engine, question: str, error: EngineError) -> None:
        note(self, f"{engine.name} fails{' ' + question if question else ''}: {error}")
        self.errors.setdefault((engine, question), str(error))

    def alive(self, question: str = "") -> list[Engine]:
        """Engines that have not failed as a whole, nor at this question."""
        failed = {engine for engine, where in self.errors if where in ("", question)}
        return [engine for engine in self.engines if engine not in failed]

    def spec(self, engine: Engine, *, small: bool = False, cache: Path | None = None) -> workers.WorkerSpec:
        context, kv_tokens = (SMALL, SMALL) if small else (CONTEXT, KV_TOKENS)
        context = min(context, self.shape.max_positions)
        return engine.spec(
            self.folder,
            threads=self.threads,
            context=context,
            kv_tokens=kv_tokens,
            cache=cache,
        )

    def ids(self) -> dict[str, int]:
        """The range that prompts' ids come from; low ids may be special."""
        low, high = (1000, 50000) if self.shape.vocab > 50000 else (self.shape.vocab // 4, self.shape.vocab)
        return {"low": low, "high": high}


def note(race: Race, text: str) -> None:
    print(f"{race.name}: {text}", file=sys.stderr, flush=True)


def in_turn(engines: Sequence[Engine], index: int) -> Iterator[Engine]:
    """Every engine, starting with another one each round."""
    turn = index % len(engines) if engines else 0
    yield from engines[turn:]
    yield from engines[:turn]


def measure_ceilings(race: Race, pool: _core.ThreadPool) -> None:
    race.bandwidths.append(_core.read_bandwidth(256 << 20, 2, pool))
    race.peaks.append(_core.int8_peak(0.1, pool))


def ask(race: Race, worker: workers.Worker, engine: Engine, question: Question, index: int) -> None:
    """One answer; prompts differ between questions and rounds and are the same for all engines."""
    seed = 1000 * list(QUESTIONS).index(question.name) + index + 1
    sizes = {
        "streams": question.streams,
        "prompt": question.prompt,
        "tokens": question.tokens,
    }
    try:
        if question.prompt + question.tokens > race.shape.max_positions:
            raise EngineError(f"the model has {race.shape.max_positions} positions")
        answer = worker.ask("generate", seed=seed, **sizes, **race.ids())
    except EngineError as error:
        race.fail(engine, question.name, error)
        return
    race.values.setdefault((engine, question.name), []).append(rate(question, answer))


def start(race: Race, engine: Engine) -> workers.Worker | None:
    """A warm worker, or None with the failure noted."""
    try:
        worker = workers.Worker(race.spec(engine))
    except EngineError as error:
        race.fail(engine, "", error)
        return None
    race.num_bytes[engine] = worker.hello["bytes"]
    try:
        worker.ask("generate", streams=1, prompt=32, tokens=4, **race.ids())
    except EngineError as error:
        worker.close()
        race.fail(engine, "", error)
        return None
    return worker


def race_together(race: Race, questions: Sequence[Question], pool: _core.ThreadPool) -> None:
    """All engines stay loaded: a question goes to all of them before the next round of it."""
    with ExitStack() as stack:
        running: dict[Engine, workers.Worker] = {}
        for engine in race.alive():
            worker = start(race, engine)
            if worker is not None:
                running[engine] = stack.enter_context(worker)
        for question in questions:
            note(race, f"{question.name}, {race.rounds} rounds")
            for index in range(race.rounds):
                measure_ceilings(race, pool)
                for engine in in_turn(race.alive(question.name), index):
                    ask(race, running[engine], engine, question, index)


def race_by_turns(race: Race, questions: Sequence[Question], pool: _core.ThreadPool) -> None:
    """For models that do not fit side by side: one engine is loaded at a time, anew in every round."""
    for index in range(race.rounds):
        for engine in in_turn(race.alive(), index):
            note(race, f"{engine.name}, round {index + 1} of {race.rounds}")
            measure_ceilings(race, pool)
            worker = start(race, engine)
            if worker is None:
                continue
            with worker:
                for question in questions:
                    if engine in race.alive(question.name):
                        ask(race, worker, engine, question, index)


def fits_together(race: Race) -> bool:
    """Whether all engines' weights, caches and buffers fit into four fifths of the free memory."""
    total = 0.0
    for engine in race.alive():
        params = race.shape.body_params + race.shape.head_params
        total += 1.5 * params * (engine.bits + 0.5) / 8 + 0.9e9
    with open("/proc/meminfo") as meminfo:
        free = next(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable"))
    return total < 0.8 * free


def measure_first(race: Race, engine: Engine) -> None:
    """The first ever start from the bf16 checkpoint, or the peer's conversion and a start."""
    seconds = race.converted[engine]
    if engine.peer != OURS:
        assert seconds is not None
        race.values[engine, "convert"] = [seconds]
        cold = race.values.get((engine, "cold"))
        if cold:
            race.values[engine, "first"] = [seconds + statistics.median(cold)]
        return
    with tempfile.TemporaryDirectory(dir=race.folder) as cache:
        started = workers.cold_start_s(race.spec(engine, small=True, cache=Path(cache)), **race.ids())
    race.values[engine, "first"] = [started]


def measure_starts(race: Race, asked: Sequence[str]) -> None:
    """Cold starts (page cache and packed cache warm), memory, and the first start of all."""
    for index in range(-1, race.rounds if "cold" in asked or "first" in asked else 0):
        note(race, f"cold starts, round {index + 1} of {race.rounds}" if index >= 0 else "warming starts")
        for engine in in_turn(race.alive("cold"), max(index, 0)):
            try:
                seconds = workers.cold_start_s(race.spec(engine, small=True), **race.ids())
            except EngineError as error:
                race.fail(engine, "cold", error)
                continue
            if index >= 0:  # the first one warms the caches
                race.values.setdefault((engine, "cold"), []).append(seconds)
    for engine in race.alive():
        note(race, f"{engine.name}, first start and memory")
        try:
            if "memory" in asked:
                peak = workers.peak_memory_bytes(race.spec(engine, small=True), **race.ids())
                race.values[engine, "memory"] = [peak / 1e6]
        except EngineError as error:
            race.fail(engine, "memory", error)
        try:
            if "first" in asked or "convert" in asked:
                measure_first(race, engine)
        except EngineError as error:
            race.fail(engine, "first", error)


def make_rows(race: Race, asked: Sequence[str]) -> list[Row]:
    ceilings = None
    if race.bandwidths:
        ceilings = Ceilings(statistics.median(race.bandwidths), statistics.median(race.peaks))
    rows = []
    for engine in race.engines:
        for question in asked:
            about = (race.name, engine.name, engine.bits, question)
            values = race.values.get((engine, question))
            error = race.errors.get((engine, question)) or race.errors.get((engine, ""))
            if error is not None:
                rows.append(error_row(*about, error))
            elif values and question in QUESTIONS and ceilings is not None:
                row = rate_row(
                    *about,
                    values,
                    num_bytes=race.num_bytes[engine],
                    body_params=race.shape.body_params,
                    ceilings=ceilings,
                )
                rows.append(row)
            elif values:
                rows.append(value_row(*about, values))
    return rows
