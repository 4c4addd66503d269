"""Time that no operator takes: the engine around a step, the tokenizer before it, the drawing of tokens.

In: a runner, its tokenizer, the setup. Out: HostTimes. The engine is run as serving runs it, but in this
thread: what a socket and another thread add is the bench's business.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from narrows.diagnose.setup import Setup
from narrows.diagnose.trace import SAMPLED, Tracer
from narrows.engine.config import EngineConfig
from narrows.engine.detokenize import Vocabulary
from narrows.engine.engine import Engine
from narrows.engine.request import GenerationRequest
from narrows.engine.step import SamplingParams

if TYPE_CHECKING:
    from narrows.engine.step import Runner

PROMPT_TOKENS: Final = 8  # of the engine's trial: what it costs does not depend on them
STEPS: Final = 64
LEAST_STEPS: Final = 8
TRIAL_S: Final = 1.0
TEXT: Final = "The river grew narrow between the rocks, and there the water ran faster than anywhere else. "


class Codec(Protocol):
    """What a tokenizer must do here."""

    def encode(self, text: str, *, add_special: bool = True) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class HostTimes:
    """Medians. `sampling_s`: of a step, drawing from a filtered distribution instead of taking the best."""

    engine_s: float  # around a step
    tokenizer_s: float  # of a prompt of the workload's length
    sampling_s: float


def measure_host(
    runner: Runner, tracer: Tracer, codec: Codec, vocabulary: Vocabulary, setup: Setup, *, greedy_s: float
) -> HostTimes:
    """`greedy_s`: of a decode step that takes the best token."""
    return HostTimes(
        engine_s=engine_seconds(runner, vocabulary, streams=setup.streams),
        tokenizer_s=tokenizer_seconds(codec, setup.prompt),
        sampling_s=sampling_seconds(tracer, setup, greedy_s),
    )


def engine_seconds(runner: Runner, vocabulary: Vocabulary, *, streams: int) -> float:
    """Seconds of a decode step around the runner's call: scheduling, text, bookkeeping; the median."""
    engine = Engine(runner, vocabulary, eos_ids=frozenset(), config=EngineConfig(speculation="off"))
    prompt = tuple(range(min(PROMPT_TOKENS, engine.info.max_context - 2)))
    most = min(STEPS + 1, engine.info.max_context - len(prompt))
    request = GenerationRequest(prompt, SamplingParams(temperature=0.0), max_tokens=most, ignore_eos=True)
    for request_id in range(min(streams, engine.info.max_running)):
        engine.add(engine.prepare(request_id, request))
    outside: list[float] = []
    began_s = time.perf_counter()
    while engine.has_work:
        run_s, step_began_s = engine.counters.run_s, time.perf_counter()
        engine.step()
        outside.append(time.perf_counter() - step_began_s - (engine.counters.run_s - run_s))
        if time.perf_counter() - began_s > TRIAL_S and len(outside) >= LEAST_STEPS:
            break
    for request_id in range(streams):
        engine.abort(request_id)
    return statistics.median(outside)


def tokenizer_seconds(codec: Codec, num_tokens: int) -> float:
    """Seconds to encode a plain text of about so many tokens; the median of three."""
    each = max(1, len(codec.encode(TEXT, add_special=False)))
    text = TEXT * max(1, round(num_tokens / each))
    return statistics.median(_timed(codec, text) for _ in range(3))


def sampling_seconds(tracer: Tracer, setup: Setup, greedy_s: float) -> float:
    """What temperature, top-k and top-p add to a decode step, at least nothing."""
    return max(0.0, tracer.measure(setup, "decode", params=SAMPLED).seconds - greedy_s)


def _timed(codec: Codec, text: str) -> float:
    began_s = time.perf_counter()
    codec.encode(text, add_special=False)
    return time.perf_counter() - began_s
