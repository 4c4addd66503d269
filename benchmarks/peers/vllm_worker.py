"""vLLM's CPU build behind the worker protocol of cpu.py: its engine, stepped in this process.

Runs in vLLM's environment. Prompts go in as ids; continuous batching, no prefix cache.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import protocol

MAX_STREAMS = 32


class Model:
    def __init__(self, folder: Path, threads: int, context: int, kv_gib: int) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process: no hop a step
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_gib)
        # Threads bound to cores stall where anything else runs on one of them.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ["VLLM_CACHE_ROOT"] = str(folder.resolve().parent / "vllm-cache")
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        from vllm import EngineArgs, LLMEngine, SamplingParams, TokensPrompt

        self.params, self.prompt = SamplingParams, TokensPrompt
        self.engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(folder),
                dtype="bfloat16",
                max_model_len=context,
                max_num_seqs=MAX_STREAMS,
                enable_prefix_caching=False,
            )
        )

    def generate(self, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
        params = self.params(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        started = time.perf_counter()
        for index, prompt in enumerate(prompts):
            self.engine.add_request(str(index), self.prompt(prompt_token_ids=prompt), params)
        begun: set[str] = set()
        lengths: dict[str, int] = {}
        first = 0.0
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                lengths[output.request_id] = len(output.outputs[0].token_ids)
                begun.add(output.request_id)
            if not first and len(begun) == len(prompts):
                first = time.perf_counter()
        ended = time.perf_counter()
        if set(lengths.values()) != {max_tokens}:
            raise RuntimeError(f"answers of {set(lengths.values())} tokens instead of {max_tokens}")
        return {"first_s": first - started, "rest_s": ended - first}


def main() -> None:
    answers = protocol.claim_stdout()
    arguments = protocol.worker_arguments(__doc__).parse_args()
    kv_gib = 4 if arguments.kv_tokens > 1024 else 1  # the model's bytes a token are not known here
    model = Model(arguments.model, arguments.threads, arguments.context, kv_gib)
    protocol.serve(answers, model, protocol.weight_bytes(arguments.model))


if __name__ == "__main__":
    main()
