"""ONNX Runtime GenAI behind the worker protocol of cpu.py: one generator for all prompts, a batch.

Runs in ONNX Runtime GenAI's environment. Its continuous batching engine needs paged attention,
which its CPU provider does not have.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
import protocol


class Model:
    def __init__(self, folder: Path, threads: int) -> None:
        config = og.Config(str(folder))
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self.model = og.Model(config)
        self.tokenizer = og.Tokenizer(self.model)  # not used: loaded as any user does

    def generate(self, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
        length = len(prompts[0]) + max_tokens
        params = og.GeneratorParams(self.model)
        # min_length forbids the end token, so that every answer has its full length.
        params.set_search_options(
            batch_size=len(prompts), max_length=length, min_length=length, do_sample=False
        )
        started = time.perf_counter()
        generator = og.Generator(self.model, params)
        generator.append_tokens(np.array(prompts, np.int32))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(max_tokens - 1):
            generator.generate_next_token()
        ended = time.perf_counter()
        lengths = {len(generator.get_sequence(index)) for index in range(len(prompts))}
        if lengths != {length}:
            raise RuntimeError(f"sequences of {lengths} tokens instead of {length}")
        return {"first_s": first - started, "rest_s": ended - first}


def main() -> None:
    answers = protocol.claim_stdout()
    arguments = protocol.worker_arguments(__doc__).parse_args()
    model = Model(arguments.model, arguments.threads)
    protocol.serve(answers, model, protocol.weight_bytes(arguments.model))


if __name__ == "__main__":
    main()
