"""llama.cpp behind the worker protocol of cpu.py: one JSON command a line in, one JSON answer a
line out.

Runs in llama.cpp's environment. Uses the low-level C interface through llama-cpp-python: no Python
per-token layer beyond one call, greedy sampling by llama.cpp's own sampler.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time

import llama_cpp as lc
import numpy as np


class Model:
    """One loaded GGUF and a context of up to 8 sequences."""

    def __init__(self, path: str, threads: int, context: int, streams: int, flash: bool) -> None:
        lc.llama_backend_init()
        lc.llama_log_set(_QUIET, ctypes.c_void_p(0))
        started = time.perf_counter()
        params = lc.llama_model_default_params()
        self.model = lc.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        options = lc.llama_context_default_params()
        options.n_ctx = context * streams
        options.n_batch = 2048
        options.n_ubatch = 512
        options.n_seq_max = streams
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type = (
            lc.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else lc.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self.context = lc.llama_init_from_model(self.model, options)
        if not self.context:
            raise SystemExit("llama.cpp cannot make a context")
        self.vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self.model))
        self.sampler = lc.llama_sampler_chain_init(lc.llama_sampler_chain_default_params())
        lc.llama_sampler_chain_add(self.sampler, lc.llama_sampler_init_greedy())
        self.batch = lc.llama_batch_init(2048, 0, 1)
        self.load_s = time.perf_counter() - started

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Runs (token, position, sequence, wants logits) rows."""
        for i, (token, position, sequence, logits) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = logits
        self.batch.n_tokens = len(rows)
        if lc.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama_decode failed")

    def clear(self) -> None:
        lc.llama_memory_clear(lc.llama_get_memory(self.context), True)

    def sample(self, row: int) -> int:
        return lc.llama_sampler_sample(self.sampler, self.context, row)

    def generate(self, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
        """Greedy tokens for all prompts at once: seconds to the first token of all, and for the rest."""
        self.clear()
        started = time.perf_counter()
        tokens = []
        for sequence, prompt in enumerate(prompts):
            last = len(prompt) - 1
            for begin in range(0, len(prompt), 2048):
                part = prompt[begin : begin + 2048]
                self.decode([(t, begin + i, sequence, begin + i == last) for i, t in enumerate(part)])
            tokens.append(self.sample(-1))
        first = time.perf_counter()
        position = len(prompts[0])
        for _ in range(max_tokens - 1):
            self.decode([(token, position, sequence, True) for sequence, token in enumerate(tokens)])
            tokens = [self.sample(row) for row in range(len(tokens))]
            position += 1
        return {"first_s": first - started, "rest_s": time.perf_counter() - first}


@lc.llama_log_callback
def _QUIET(level: int, text: bytes, data: object) -> None:
    if level >= 4:  # errors only
        sys.stderr.buffer.write(text)


def peak_bytes() -> int:
    """The process's peak resident memory (VmHWM)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--flash", type=int, default=1)
    arguments = parser.parse_args()
    model = Model(
        arguments.gguf, arguments.threads, arguments.context, arguments.streams, bool(arguments.flash)
    )
    print(
        json.dumps({"ready": True, "load_s": model.load_s, "bytes": os.path.getsize(arguments.gguf)}),
        flush=True,
    )
    for line in sys.stdin:
        command = json.loads(line)
        if command["op"] == "generate":
            rng = np.random.default_rng(command.get("seed", 1))
            prompts = rng.integers(1000, 50000, (command["streams"], command["prompt"])).tolist()
            answer = model.generate(prompts, command["tokens"])
        elif command["op"] == "memory":
            answer = {"peak_bytes": float(peak_bytes())}
        else:
            raise SystemExit(f"unknown op {command['op']}")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
