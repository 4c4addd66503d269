"""Narrows behind one JSON command a line, with the CPU time it took and this machine's ceilings.

For isa.py and neighbours.py:

    {"op": "generate", "streams": 1, "prompt": 32, "tokens": 65, "seed": 1, "low": 5, "high": 4096}
    {"op": "decode", "ms": 1000, "low": 5, "high": 4096}        one stream for so long
    {"op": "ceilings", "bytes": 4000000, "ms": 50}      GB/s of reading so much again and again, GMAC/s

Prompts are random ids; answers are greedy and have exactly as many tokens. NARROWS_ISA chooses the kernels,
and with them what GMAC/s are counted in.
"""

from __future__ import annotations

import json
import random
import sys
import time
import traceback

from narrows_worker import Model
from peers import protocol

from narrows import _core
from narrows.engine.client import EngineClient, GenerationRequest, SamplingParams
from narrows.engine.config import EngineConfig
from narrows.engine.load import load_engine

PROMPT = 32  # of a stream that is decoded


def generate(model: Model, command: dict[str, int]) -> dict[str, float]:
    """Seconds to the first tokens and for the rest, and CPU seconds of all threads, waiting ones too."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    answer = protocol.answer(model, {"op": "generate", **command})
    answer["wall_s"] = time.perf_counter() - wall_s
    answer["cpu_s"] = time.process_time() - cpu_s
    return answer


def decode(client: EngineClient, command: dict[str, int]) -> dict[str, float]:
    """Tokens of one stream after its first one until the time is over; at the context's end another begins.
    However slow the engine has become, this ends with the next token.
    """
    rng = random.Random(1)
    num_tokens, decode_s, cpu_s = 0, 0.0, time.process_time()
    end_s = time.perf_counter() + command["ms"] / 1e3
    while (now_s := time.perf_counter()) < end_s:
        prompt = tuple(rng.randrange(command["low"], command["high"]) for _ in range(PROMPT))
        sampling = SamplingParams(temperature=0)
        with client.submit(
            GenerationRequest(prompt_ids=prompt, sampling=sampling, ignore_eos=True)
        ) as stream:
            first_s, seen = 0.0, 0
            for chunk in stream:
                now_s = time.perf_counter()
                if chunk.tokens and not seen:
                    first_s = now_s
                seen += len(chunk.tokens)
                if now_s > end_s and seen > 1:
                    break
            num_tokens, decode_s = num_tokens + seen - 1, decode_s + now_s - first_s
    return {"tokens": num_tokens, "seconds": decode_s, "cpu_s": time.process_time() - cpu_s}


def ceilings(pool: _core.ThreadPool, num_bytes: int, ms: int) -> dict[str, float]:
    repeats = max(3, 300_000_000 // num_bytes)
    return {
        "gb_per_s": _core.read_bandwidth(num_bytes, repeats, pool),
        "gmac_per_s": _core.int8_peak(ms / 1e3, pool),
    }


def main() -> None:
    answers = protocol.claim_stdout()
    parser = protocol.worker_arguments(__doc__)
    parser.add_argument("--weights", default="q4")
    arguments = parser.parse_args()
    from narrows.runners.options import CpuOptions

    options = CpuOptions(
        weights=arguments.weights,
        threads=arguments.threads or None,
        max_context=arguments.context,
        num_blocks=-(-arguments.kv_tokens // 16),
    )
    client = load_engine(str(arguments.model), options=options, config=EngineConfig(speculation="off")).client
    model, threads = Model(client), int(client.info.description["threads"])
    pool = _core.ThreadPool(threads)
    hello = {"bytes": client.info.weight_bytes_per_step, "threads": threads, "isa": _core.isa()}
    print(json.dumps(hello), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        op = command.pop("op")
        try:
            reply: dict[str, float | str]
            if op == "ceilings":
                reply = dict(ceilings(pool, command["bytes"], command["ms"]))
            elif op == "decode":
                reply = dict(decode(client, command))
            else:
                reply = dict(generate(model, command))
        except Exception as error:  # the asker shows it
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)
    client.close()


if __name__ == "__main__":
    main()
