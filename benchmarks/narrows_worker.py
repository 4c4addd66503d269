"""Narrows behind the worker protocol of cpu.py.

Goes through the whole engine (scheduler, blocks, detokenizing, delivery), as a user's request does;
prompts are ids.
"""

from __future__ import annotations

import threading
import time

from peers import protocol

from narrows.engine.client import EngineClient, GenerationRequest, SamplingParams
from narrows.engine.config import EngineConfig
from narrows.engine.load import load_engine


def read(client: EngineClient, prompt: list[int], max_tokens: int, seen: list[float]) -> None:
    """Runs one request to its end; appends the arrival times of its first and last token."""
    request = GenerationRequest(
        prompt_ids=tuple(prompt),
        sampling=SamplingParams(temperature=0),
        max_tokens=max_tokens,
        ignore_eos=True,
    )
    num_tokens, first_s = 0, 0.0
    with client.submit(request) as stream:
        for chunk in stream:
            if chunk.tokens and not num_tokens:
                first_s = time.perf_counter()
            num_tokens += len(chunk.tokens)
    if num_tokens != max_tokens:
        raise RuntimeError(f"{num_tokens} tokens instead of {max_tokens}")
    seen += [first_s, time.perf_counter()]


class Model:
    """A running engine; every prompt has a reader thread, as every client of the server has."""

    def __init__(self, client: EngineClient) -> None:
        self.client = client

    def generate(self, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
        seen: list[list[float]] = [[] for _ in prompts]
        started = time.perf_counter()
        readers = [
            threading.Thread(target=read, args=(self.client, prompt, max_tokens, times))
            for prompt, times in zip(prompts, seen, strict=True)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        if not all(seen):
            raise RuntimeError("a request failed")
        first = max(times[0] for times in seen)
        return {
            "first_s": first - started,
            "rest_s": max(times[1] for times in seen) - first,
        }


def main() -> None:
    answers = protocol.claim_stdout()
    parser = protocol.worker_arguments(__doc__)
    parser.add_argument("--weights", default="q4")
    parser.add_argument("--group-size", type=int)
    parser.add_argument("--head", default="auto")
    arguments = parser.parse_args()
    from narrows.runners.options import (
        CpuOptions,
    )  # the loader parses the tokenizer beside this import

    options = CpuOptions(
        weights=arguments.weights,
        group=arguments.group_size,
        head=arguments.head,
        threads=arguments.threads,
        max_context=arguments.context,
        num_blocks=arguments.kv_tokens // 16,
    )
    client = load_engine(str(arguments.model), options=options, config=EngineConfig(speculation="off")).client
    protocol.serve(answers, Model(client), client.info.weight_bytes_per_step)
    client.close()


if __name__ == "__main__":
    main()
