"""Applies each remedy that can be applied here and compares what was measured with what had been predicted.

In: Observed, with its open runner. Out: Checks, one by one, so that an interrupt keeps what there is. The
present setup and the remedied one are timed by turns: a shared machine's minute is no property of a remedy,
so the prediction is made from what the present setup took in the same minutes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from narrows.diagnose import drafting
from narrows.diagnose.calibrate import with_barriers
from narrows.diagnose.candidate import WEIGHTS, weights_setup
from narrows.diagnose.observe import BEGINNING, WRITING_S, Observed, Question, Tell
from narrows.diagnose.predict import CostModel, Predictor, Present
from narrows.diagnose.process import cpu_clock, cpu_share
from narrows.diagnose.remedies import BATCHES, CHUNKS
from narrows.diagnose.setup import Load, Setup
from narrows.diagnose.trace import Timed, Tracer
from narrows.engine.config import EngineConfig
from narrows.engine.engine import Engine
from narrows.engine.request import GenerationRequest
from narrows.engine.step import SamplingParams
from narrows.errors import OutOfMemory
from narrows.report import QUIET, Check
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions

if TYPE_CHECKING:
    from narrows.diagnose.loading import Started

ROUNDS: Final = 5
LEAST_ROUNDS: Final = 2
BUDGET_S: Final = 4.0  # of the rounds of one load; long steps get fewer of them
TURN_S: Final = 0.15  # of units of one side in a round
SPOKEN: Final = 256  # tokens of the text that guesses are tried on


@dataclass(frozen=True, slots=True)
class Applied:
    """A remedy that can be applied: its setup, and the loads it is about. `options` None: the same runner."""

    name: str
    setup: Setup
    loads: tuple[Load, ...]
    options: CpuOptions | None = None


def checks(
    question: Question,
    seen: Observed,
    tell: Tell,
    *,
    rounds: int = ROUNDS,
    budget_s: float = BUDGET_S,
    skipped: Tell | None = None,
) -> Iterator[Check]:
    """Each remedy in turn, predicted from the present setup alone; `budget_s` bounds the rounds of one load.

    `skipped` is told the names of those for which there is no memory beside the present one.
    """
    started = seen.started
    if started is None:
        return
    ours = Tracer(started.runner)
    for applied in applicable(question, seen):
        tell(f"checking {applied.name}")
        try:
            with _tracer_of(question, applied, ours) as theirs:
                for load in applied.loads:
                    sides = ours, seen.findings.setup, theirs, applied.setup
                    turns = by_turns(*sides, load, rounds=rounds, budget_s=budget_s)
                    predicted_s = predict(seen, applied.setup, load, turns.now)
                    yield Check(applied.name, load, predicted_s, turns.then.seconds, "s", turns.quiet)
        except OutOfMemory:
            if skipped is not None:
                skipped(applied.name)
    tell("checking guesses")
    yield from _speculation(seen, started, rounds)


def applicable(question: Question, seen: Observed) -> Iterator[Applied]:
    """Weights, threads, batches, chunks."""
    findings = seen.findings
    setup = findings.setup
    loads: tuple[Load, ...] = ("prefill", "decode") if setup.streams == 1 else ("prefill", "decode", "mixed")
    for kind, told in WEIGHTS.items():
        other = weights_setup(findings, kind)
        if other.recipe == setup.recipe:
            continue
        group = told.get("group-size")
        options = replace(
            question.options(threads=setup.threads),
            weights=told["weights"],  # type: ignore[arg-type]
            group=None if group is None else int(group),
            head=told.get("head", "auto"),  # type: ignore[arg-type]
        )
        yield Applied(f"weights {kind}", other, loads, options)
    if setup.kv != "int8":
        options = replace(question.options(threads=setup.threads), kv_dtype="int8")
        yield Applied("kv int8", replace(setup, kv="int8"), ("decode",), options)
    if setup.threads > 1:
        options = question.options(threads=1)
        yield Applied("threads 1", replace(setup, threads=1), loads, options)
    for factor in BATCHES:
        streams = int(setup.streams * factor)
        if streams >= 1 and streams != setup.streams:
            yield Applied(f"batch {streams}", replace(setup, streams=streams), ("decode",))
    for chunk in CHUNKS:
        if chunk != setup.chunk and chunk <= setup.prompt:
            yield Applied(f"chunk {chunk}", replace(setup, chunk=chunk), ("mixed",))


@contextmanager
def _tracer_of(question: Question, applied: Applied, ours: Tracer) -> Iterator[Tracer]:
    if applied.options is None or question.subject.folder is None:
        yield ours
        return
    blocks = ours.info.num_blocks
    runner = CpuRunner.from_folder(question.subject.folder, replace(applied.options, num_blocks=blocks))
    try:
        yield Tracer(runner)
    finally:
        runner.close()


def predict(seen: Observed, other: Setup, load: Load, now: Timed) -> float:
    """Seconds of the remedied unit, from what the present one took in the same minutes and nothing else."""
    findings, ceilings = seen.findings, seen.ceilings
    model = findings.predictor.model
    if load == "decode" and ceilings is not None:
        model = CostModel(ceilings, with_barriers(CostModel(ceilings), findings.setup, now.groups))
    return Predictor(model, Present(findings.setup, {load: now.groups})).total(other, load)


@dataclass(frozen=True, slots=True)
class Turns:
    """The present and the remedied unit, and the share of the CPU time that was got meanwhile."""

    now: Timed
    then: Timed
    quiet: float


def by_turns(
    ours: Tracer,
    setup: Setup,
    theirs: Tracer,
    other: Setup,
    load: Load,
    *,
    rounds: int,
    budget_s: float = BUDGET_S,
) -> Turns:
    """The least of the rounds: what the machine does when it is left alone.

    Rounds in which others were on the cores are run again as far as the budget goes, and do not count where
    there are better ones.
    """
    found: list[Turns] = []
    began_s = time.perf_counter()
    while True:
        now, now_quiet = _turn(ours, setup, load)
        then, then_quiet = _turn(theirs, other, load)
        found.append(Turns(now, then, min(now_quiet, then_quiet)))
        good = [turn for turn in found if turn.quiet >= QUIET]
        spent_s = time.perf_counter() - began_s
        if len(good) >= rounds or (len(found) >= min(rounds, LEAST_ROUNDS) and spent_s >= budget_s):
            break
    best = good or [max(found, key=lambda turn: turn.quiet)]
    return Turns(
        min((turn.now for turn in best), key=lambda timed: timed.seconds),
        min((turn.then for turn in best), key=lambda timed: timed.seconds),
        min(turn.quiet for turn in best),
    )


def _turn(tracer: Tracer, setup: Setup, load: Load) -> tuple[Timed, float]:
    """(a unit, share of the CPU time that was got)."""
    began = cpu_clock()
    timed = tracer.measure(setup, load, work_s=TURN_S, least=1)
    return timed, cpu_share(began, setup.threads)


def _speculation(seen: Observed, started: Started, rounds: int) -> Iterator[Check]:
    """Tokens per second of one greedy stream with guesses, from those without in the same minute."""
    findings, tokenizer = seen.findings, started.tokenizer
    if tokenizer is None or findings.setup.output < 2:
        return
    prompt = tuple(tokenizer.encode(BEGINNING))
    written = drafting.write(started.runner, prompt, SPOKEN, most_s=WRITING_S)
    if len(written) < 2:
        return
    alone = replace(findings.setup, streams=1, prompt=len(prompt), output=len(written))
    predictor = findings.predictor
    costs = drafting.step_costs(predictor, alone, predictor.present.host_s)
    predicted = drafting.draft(prompt, written, costs, "").gain
    request = GenerationRequest(
        prompt, SamplingParams(temperature=0.0), max_tokens=len(written), ignore_eos=True
    )
    plain, guessed, quiet = [], [], []
    for _ in range(rounds):
        began = cpu_clock()
        plain.append(len(written) / _spoken(started, request, "off"))
        guessed.append(len(written) / _spoken(started, request, "on"))
        quiet.append(cpu_share(began, findings.setup.threads))
    best = max(quiet)
    yield Check("speculation", "decode", max(plain) * predicted, max(guessed), "tokens/s", best)


def _spoken(started: Started, request: GenerationRequest, kind: str) -> float:
    """Seconds from the first to the last token."""
    tokenizer = started.tokenizer
    if tokenizer is None:
        return 0.0
    config = EngineConfig(speculation=kind)  # type: ignore[arg-type]
    engine = Engine(started.runner, tokenizer, eos_ids=frozenset(), config=config)
    engine.add(engine.prepare(0, request))
    engine.step()  # the prompt and the first token
    began_s = time.perf_counter()
    while engine.has_work:
        engine.step()
    return time.perf_counter() - began_s
