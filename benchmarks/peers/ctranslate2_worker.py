"""CTranslate2 behind the worker protocol of cpu.py: its Generator, all prompts in one batch.

Runs in CTranslate2's environment. Its prompts are strings of the vocabulary: looked up, not
tokenized.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import ctranslate2
import protocol


class Model:
    def __init__(self, folder: Path, threads: int) -> None:
        self.names: list[str] = json.loads((folder / "vocabulary.json").read_text())
        # Its own choice for this CPU, oneDNN. MKL instead (CT2_USE_MKL=1) ran at 0.07 of its decode and
        # 0.13 of its prefill here.
        self.generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )

    def generate(self, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
        starts = [[self.names[token] for token in prompt] for prompt in prompts]
        arrivals: list[float] = []  # of the prompts' first tokens

        def seen(step: ctranslate2.GenerationStepResult) -> bool:
            if step.step == 0:
                arrivals.append(time.perf_counter())
            return False  # go on

        started = time.perf_counter()
        results = self.generator.generate_batch(
            starts,
            include_prompt_in_result=False,  # the prompt goes through in one step
            beam_size=1,
            sampling_topk=1,
            min_length=max_tokens,  # forbids the end token
            max_length=max_tokens,
            callback=seen,
        )
        ended = time.perf_counter()
        lengths = {len(result.sequences_ids[0]) for result in results}
        if lengths != {max_tokens}:
            raise RuntimeError(f"answers of {lengths} tokens instead of {max_tokens}")
        return {"first_s": max(arrivals) - started, "rest_s": ended - max(arrivals)}


def main() -> None:
    answers = protocol.claim_stdout()
    arguments = protocol.worker_arguments(__doc__).parse_args()
    model = Model(arguments.model, arguments.threads)
    protocol.serve(answers, model, protocol.weight_bytes(arguments.model))


if __name__ == "__main__":
    main()
