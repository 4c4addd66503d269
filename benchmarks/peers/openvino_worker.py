"""OpenVINO GenAI behind the worker protocol of cpu.py, through its continuous batching pipeline.

Runs in OpenVINO's environment. Prompts go in as ids and tokens come out as ids; the tokenizer is
loaded, as for any user, but not used.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
import protocol

MAX_STREAMS = 32
KV_BLOCK = 32  # tokens in a block of the CPU plugin's paged attention
# Tried on an AVX-512 VNNI core, one thread, qwen3-0.6b, each against this setting in the same run:
# 256 tokens a step: decode 0.9, prefill 0.8-1.0, 8 streams 0.9-1.0. Inference in float32 instead of what
# the plugin chooses: decode 1.0-1.1, prefill 0.9-1.0. KV in float16 instead of the plugin's int8: 1.0 at
# 32 and at 1024 tokens. One scale of the activations per 128 inputs instead of the plugin's 32: int4
# prefill 1.4 and decode 0.93 (both are in the table), int8 prefill 1.3 and decode 1.2; no int8
# activations (0): prefill 0.8-0.9, decode 0.7.
STEP_TOKENS = 2048


class Model:
    def __init__(self, folder: Path, threads: int, kv_tokens: int, dynamic_group: int) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False  # every prompt is computed, as for the others
        scheduler.max_num_seqs = MAX_STREAMS
        scheduler.max_num_batched_tokens = STEP_TOKENS
        scheduler.num_kv_blocks = kv_tokens // KV_BLOCK + MAX_STREAMS
        properties = {"INFERENCE_NUM_THREADS": threads, "DYNAMIC_QUANTIZATION_GROUP_SIZE": dynamic_group}
        self.pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)

    def generate(self, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
        config = genai.GenerationConfig(max_new_tokens=max_tokens, ignore_eos=True, do_sample=False)
        started = time.perf_counter()
        handles = [
            self.pipeline.add_request(index, ov.Tensor(np.array([prompt], np.int64)), config)
            for index, prompt in enumerate(prompts)
        ]
        first = 0.0
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            if not first and all(handle.can_read() for handle in handles):
                first = time.perf_counter()
        ended = time.perf_counter()
        for handle in handles:
            num_tokens = len(handle.read_all()[0].generated_ids)
            if num_tokens != max_tokens:
                raise RuntimeError(f"{num_tokens} tokens instead of {max_tokens}")
        return {"first_s": first - started, "rest_s": ended - first}


def main() -> None:
    answers = protocol.claim_stdout()
    parser = protocol.worker_arguments(__doc__)
    parser.add_argument("--dynamic-group", type=int, default=128, help="inputs per scale of activations")
    arguments = parser.parse_args()
    model = Model(arguments.model, arguments.threads, arguments.kv_tokens, arguments.dynamic_group)
    protocol.serve(answers, model, protocol.weight_bytes(arguments.model))


if __name__ == "__main__":
    main()
