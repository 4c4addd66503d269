"""llama.cpp behind the worker protocol of cpu.py.

Runs in llama.cpp's environment. Uses the low-level C interface through llama-cpp-python: no Python
per-token layer beyond one call, greedy sampling by llama.cpp's own sampler.
"""

from __future__ import annotations

import ctypes
import sys
import time

import llama_cpp as lc
import protocol

# Tried on an AVX-512 VNNI core, one thread, qwen3-0.6b Q4_0, each against this setting in the same run:
# no flash attention: decode 0.75, prefill 0.95, 8 streams 0.95. KV in Q8_0 instead of float16: 1.0 at
# 32 tokens, 0.74 at 1024. 128 tokens a ubatch instead of 512: 1.0.
BATCH = 2048  # tokens in one llama_decode
CELLS = 256  # a stream's share of the KV cache is a multiple of this


class Model:
    """One loaded GGUF, and a context for every number of streams that was asked for.

    llama.cpp divides a context's KV cache among its streams; one unified cache would make every
    stream's attention pass over the others' tokens.
    """

    def __init__(self, path: str, threads: int, context: int, *, flash: bool) -> None:
        lc.llama_backend_init()
        lc.llama_log_set(_QUIET, ctypes.c_void_p(0))
        self.model = lc.llama_model_load_from_file(path.encode(), lc.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.threads, self.context, self.flash = threads, context, flash
        self.contexts: dict[tuple[int, int], object] = {}
        self.sampler = lc.llama_sampler_chain_init(lc.llama_sampler_chain_default_params())
        lc.llama_sampler_chain_add(self.sampler, lc.llama_sampler_init_greedy())
        self.batch = lc.llama_batch_init(BATCH, 0, 1)

    def make_context(self, streams: int, tokens: int) -> object:
        """An empty context that holds `tokens` for each stream."""
        cells = self.context if streams == 1 else -(-tokens // CELLS) * CELLS
        made = self.contexts.get((streams, cells))
        if made is None:
            options = lc.llama_context_default_params()
            options.n_ctx = cells * streams
            options.n_batch, options.n_ubatch, options.n_seq_max = BATCH, 512, streams
            options.n_threads = options.n_threads_batch = self.threads
            options.flash_attn_type = (
                lc.LLAMA_FLASH_ATTN_TYPE_ENABLED if self.flash else lc.LLAMA_FLASH_ATTN_TYPE_DISABLED
            )
            made = self.contexts[streams, cells] = lc.llama_init_from_model(self.model, options)
            if not made:
                raise RuntimeError(f"llama.cpp cannot make a context of {cells} x {streams} tokens")
        lc.llama_memory_clear(lc.llama_get_memory(made), True)
        return made

    def decode(self, context: object, rows: list[tuple[int, int, int, bool]]) -> None:
        """Runs (token, position, stream, wants logits) rows."""
        for i, (token, position, stream, logits) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = stream
            self.batch.logits[i] = logits
        self.batch.n_tokens = len(rows)
        if lc.llama_decode(context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")

    def prefill(self, context: object, prompts: list[list[int]]) -> list[int]:
        """The first token of every prompt; as many prompts share a batch as it holds."""
        last = len(prompts[0]) - 1
        rows = [(t, i, stream, i == last) for stream, p in enumerate(prompts) for i, t in enumerate(p)]
        tokens = []
        for begin in range(0, len(rows), BATCH):
            part = rows[begin : begin + BATCH]
            self.decode(context, part)
            ends = [row for row, (_, _, _, logits) in enumerate(part) if logits]
            tokens += [lc.llama_sampler_sample(self.sampler, context, row) for row in ends]
        return tokens

    def generate(self, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
        position = len(prompts[0])
        context = self.make_context(len(prompts), position + max_tokens)
        started = time.perf_counter()
        tokens = self.prefill(context, prompts)
        first = time.perf_counter()
        for _ in range(max_tokens - 1):
            self.decode(
                context,
                [(token, position, stream, True) for stream, token in enumerate(tokens)],
            )
            tokens = [lc.llama_sampler_sample(self.sampler, context, row) for row in range(len(tokens))]
            position += 1
        return {"first_s": first - started, "rest_s": time.perf_counter() - first}


@lc.llama_log_callback
def _QUIET(level: int, text: bytes, data: object) -> None:
    if level >= 4:  # errors only
        sys.stderr.buffer.write(text)


def main() -> None:
    answers = protocol.claim_stdout()
    parser = protocol.worker_arguments(__doc__)
    parser.add_argument("--flash", type=int, default=1)
    arguments = parser.parse_args()
    model = Model(
        str(arguments.model),
        arguments.threads,
        arguments.context,
        flash=bool(arguments.flash),
    )
    protocol.serve(answers, model, protocol.weight_bytes(arguments.model))


if __name__ == "__main__":
    main()
