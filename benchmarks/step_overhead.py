"""What a decode step costs outside the native call: scheduling, marshalling, detokenizing, delivery
to a reader.

One stream of the embedded model through the whole engine. Prints the median over runs of (first to
last token as the reader sees it - time inside the native calls) / tokens, and appends a JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from narrows.engine.client import GenerationRequest, SamplingParams
from narrows.engine.config import EngineConfig
from narrows.engine.engine import Engine
from narrows.engine.worker import EngineWorker
from narrows.models.resolve import resolve_model
from narrows.models.tokenizer import Tokenizer
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions


class TimedStep:
    """The native transformer with a clock around its step."""

    def __init__(self, native: Any) -> None:  # noqa: ANN401
        self._native = native
        self.inside_s = 0.0

    def step(self, *arguments: Any) -> Any:  # noqa: ANN401
        begin = time.perf_counter()
        try:
            return self._native.step(*arguments)
        finally:
            self.inside_s += time.perf_counter() - begin


def measure(client: EngineWorker, timed: TimedStep, tokens: int) -> tuple[float, float]:
    """(outside, inside) in microseconds per token of one greedy stream."""
    request = GenerationRequest(
        prompt_ids=tuple(range(10, 42)),
        sampling=SamplingParams(temperature=0),
        max_tokens=tokens,
        ignore_eos=True,
    )
    count, first_s, inside_s = 0, 0.0, 0.0
    with client.submit(request) as stream:
        for chunk in stream:
            if chunk.tokens and not count:
                first_s, inside_s = time.perf_counter(), timed.inside_s
            count += len(chunk.tokens)
    total_s, native_s = time.perf_counter() - first_s, timed.inside_s - inside_s
    return (total_s - native_s) / (count - 1) * 1e6, native_s / (count - 1) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=400)
    arguments = parser.parse_args()
    folder = resolve_model(None)
    runner = CpuRunner.from_folder(folder, CpuOptions())
    timed = TimedStep(runner._transformer)
    runner._transformer = timed  # type: ignore[assignment]
    tokenizer = Tokenizer.from_folder(folder, vocab=runner.info.vocab_size)
    client = EngineWorker(
        Engine(runner, tokenizer, eos_ids=tokenizer.eos_ids, config=EngineConfig(speculation="off"))
    )
    pairs = [measure(client, timed, arguments.tokens) for _ in range(arguments.runs)]
    client.close()
    outside = statistics.median(pair[0] for pair in pairs)
    inside = statistics.median(pair[1] for pair in pairs)
    row = {
        "question": "step_overhead",
        "outside_us": round(outside, 1),
        "lowest_us": round(min(pair[0] for pair in pairs), 1),
        "native_us": round(inside, 1),
        "tokens": arguments.tokens,
        "runs": arguments.runs,
    }
    print(f"outside the native call {outside:.1f} us a step, inside {inside:.1f} us")
    target = Path(__file__).parent / "results" / "step_overhead.jsonl"
    target.parent.mkdir(exist_ok=True)
    with target.open("a") as out:
        out.write(json.dumps({"time": int(time.time()), **row}) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
