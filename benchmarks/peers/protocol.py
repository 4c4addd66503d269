"""The worker side of cpu.py: one JSON command a line in, one JSON answer a line out, for every
engine alike.

An adapter hands over something that generates; this reads commands, makes the prompts and turns
failures into answers. Knows no engine; runs in every peer's environment, so it needs numpy only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np


class Generator(Protocol):
    """What an adapter offers."""

    def generate(self, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
        """Exactly max_tokens greedy tokens for every prompt, all prompts at once.

        Returns seconds until every prompt has its first token (`first_s`) and for the rest (`rest_s`).
        """
        ...


def claim_stdout() -> TextIO:
    """Keeps stdout for answers: whatever a library prints from now on goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def worker_arguments(description: str | None) -> argparse.ArgumentParser:
    """The command line that every worker takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", type=Path, help="what the peer's conversion wrote")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=1024, help="tokens that one stream may have")
    parser.add_argument("--kv-tokens", type=int, default=1024, help="tokens that all streams may have")
    return parser


def peak_bytes() -> int:
    """The process's peak resident memory (VmHWM)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def weight_bytes(path: Path) -> int:
    """Bytes of a weights file, or of all weights files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(
        file.stat().st_size
        for file in path.iterdir()
        if file.suffix in (".bin", ".data", ".onnx", ".safetensors") and "tokenizer" not in file.name
    )


def answer(generator: Generator, command: dict[str, int | str]) -> dict[str, float]:
    if command["op"] == "memory":
        return {"peak_bytes": float(peak_bytes())}
    if command["op"] != "generate":
        raise ValueError(f"unknown op {command['op']!r}")
    rng = np.random.default_rng(int(command.get("seed", 1)))
    low, high = int(command.get("low", 1000)), int(command.get("high", 50000))
    prompts = rng.integers(low, high, (int(command["streams"]), int(command["prompt"]))).tolist()
    return generator.generate(prompts, int(command["tokens"]))


def serve(answers: TextIO, generator: Generator, num_bytes: float) -> None:
    """Says hello, then answers until stdin closes; a failure is answered, not fatal.

    num_bytes: the weights that one decode step reads.
    """
    print(json.dumps({"ready": True, "bytes": num_bytes}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            reply: dict[str, float | str] = dict(answer(generator, json.loads(line)))
        except Exception as error:  # the harness lists it and goes on
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)
