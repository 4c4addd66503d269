"""Narrows behind the worker protocol of cpu.py: one JSON command a line in, one JSON answer a line
out.

Goes through the whole engine (scheduler, blocks, detokenizing, delivery), as a user's request does;
prompts are ids.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time

import numpy as np

from narrows.engine.client import EngineClient, GenerationRequest, SamplingParams
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


def generate(client: EngineClient, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
    """Greedy tokens for all prompts at once: seconds to the first token of all, and for the rest."""
    seen: list[list[float]] = [[] for _ in prompts]
    started = time.perf_counter()
    readers = [
        threading.Thread(target=read, args=(client, prompt, max_tokens, times))
        for prompt, times in zip(prompts, seen, strict=True)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    if not all(seen):
        raise RuntimeError("a request failed")
    first = max(times[0] for times in seen)
    return {"first_s": first - started, "rest_s": max(times[1] for times in seen) - first}


def peak_bytes() -> int:
    """The process's peak resident memory (VmHWM)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights", default="q4")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--streams", type=int, default=8)
    arguments = parser.parse_args()
    from narrows.runners.options import CpuOptions  # the loader parses the tokenizer beside this import

    options = CpuOptions(
        weights=arguments.weights,
        group=arguments.group_size,
        threads=arguments.threads,
        max_context=arguments.context,
        num_blocks=arguments.streams * arguments.context // 16,
    )
    loaded = load_engine(arguments.model, options=options)
    client = loaded.client
    hello = {"ready": True, "load_s": loaded.info.load_s, "bytes": client.info.weight_bytes_per_step}
    print(json.dumps(hello), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["op"] == "generate":
            rng = np.random.default_rng(command.get("seed", 1))
            prompts = rng.integers(1000, 50000, (command["streams"], command["prompt"])).tolist()
            answer = generate(client, prompts, command["tokens"])
        elif command["op"] == "memory":
            answer = {"peak_bytes": float(peak_bytes())}
        else:
            raise SystemExit(f"unknown op {command['op']}")
        print(json.dumps(answer), flush=True)
    client.close()


if __name__ == "__main__":
    main()
