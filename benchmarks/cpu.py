"""Narrows against llama.cpp on this CPU: decode, prefill, eight streams, cold start, memory, in one
interleaved run.

Random weights in real shapes. Every round asks every engine in turn and measures the ceilings
between, so that a busy neighbour slows all sides alike; medians and spreads over the rounds. Prints
a table and appends JSON lines to results/. Before the first run: `benchmarks/peers/setup.sh`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import shapes
import workers

from narrows import _core

HERE = Path(__file__).parent
OPS = {
    "decode": {"streams": 1, "prompt": 32, "tokens": 97},
    "prefill": {"streams": 1, "prompt": 512, "tokens": 1},
    "streams8": {"streams": 8, "prompt": 128, "tokens": 64},
}


@dataclass(frozen=True, slots=True)
class Row:
    """One engine, one question: the median, the spread (min, max) and the physics."""

    shape: str
    engine: str
    question: str
    value: float
    low: float
    high: float
    unit: str
    bytes_per_token: float
    fraction_of_ceiling: float | None
    ceiling: str


def rate(op: str, answer: dict[str, float]) -> float:
    """Tokens per second as the table counts them."""
    sizes = OPS[op]
    if op == "decode":
        return (sizes["tokens"] - 1) / answer["rest_s"]
    if op == "prefill":
        return sizes["prompt"] / answer["first_s"]
    return sizes["streams"] * sizes["tokens"] / (answer["first_s"] + answer["rest_s"])


def measure_rounds(
    running: list[workers.Worker], rounds: int, pool: _core.ThreadPool
) -> tuple[dict[tuple[str, str], list[float]], list[float], list[float]]:
    """(engine, op) -> rates, and the two ceilings measured between the groups: GB/s and int8 GMAC/s."""
    rates: dict[tuple[str, str], list[float]] = {}
    bandwidths: list[float] = []
    peaks: list[float] = []
    for op, sizes in OPS.items():
        for index in range(rounds):
            bandwidths.append(_core.read_bandwidth(256 << 20, 2, pool))
            peaks.append(_core.int8_peak(0.1, pool))
            turn = index % len(running)
            for worker in running[turn:] + running[:turn]:
                answer = worker.ask("generate", seed=index + 1, **sizes)
                rates.setdefault((worker.spec.name, op), []).append(rate(op, answer))
    return rates, bandwidths, peaks


def make_rows(
    shape_name: str,
    running: list[workers.Worker],
    rates: dict[tuple[str, str], list[float]],
    gb_per_s: float,
    gmac_per_s: float,
) -> list[Row]:
    shape = shapes.SHAPES[shape_name]
    rows = []
    for worker in running:
        num_bytes = worker.hello["bytes"]
        for op in OPS:
            values = sorted(rates[worker.spec.name, op])
            middle = statistics.median(values)
            fraction, ceiling = None, ""
            if op == "decode":
                fraction, ceiling = middle * num_bytes / 1e9 / gb_per_s, f"{gb_per_s:.1f} GB/s"
            elif op == "prefill":
                fraction, ceiling = middle * shape.body_params / 1e9 / gmac_per_s, f"{gmac_per_s:.0f} GMAC/s"
            rows.append(
                Row(
                    shape_name,
                    worker.spec.name,
                    op,
                    middle,
                    values[0],
                    values[-1],
                    "tokens/s",
                    num_bytes,
                    fraction,
                    ceiling,
                )
            )
    return rows


def measure_cold(shape_name: str, specs: list[workers.WorkerSpec], rounds: int) -> list[Row]:
    rows = []
    starts: dict[str, list[float]] = {spec.name: [] for spec in specs}
    for spec in specs:
        workers.cold_start_s(spec)  # makes the packed cache and warms the page cache
    for _ in range(rounds):
        for spec in specs:
            starts[spec.name].append(workers.cold_start_s(spec))
    for spec in specs:
        values = sorted(starts[spec.name])
        rows.append(
            Row(
                shape_name,
                spec.name,
                "cold",
                statistics.median(values),
                values[0],
                values[-1],
                "s",
                0,
                None,
                "",
            )
        )
        peak = workers.peak_memory_bytes(spec) / 1e6
        rows.append(Row(shape_name, spec.name, "memory", peak, peak, peak, "MB", 0, None, ""))
    return rows


def print_table(rows: list[Row]) -> None:
    print(
        f"{'shape':14} {'question':9} {'engine':20} {'median':>9} {'low':>8} {'high':>8} unit      of ceiling"
    )
    for row in sorted(rows, key=lambda r: (r.shape, r.question)):
        share = (
            f"{row.fraction_of_ceiling:.0%} of {row.ceiling}" if row.fraction_of_ceiling is not None else ""
        )
        print(
            f"{row.shape:14} {row.question:9} {row.engine:20} {row.value:9.2f} {row.low:8.2f} "
            f"{row.high:8.2f} {row.unit:9} {share}"
        )


def print_ratios(rows: list[Row]) -> None:
    """Narrows against the best setting of the peer, per question."""
    for shape in sorted({row.shape for row in rows}):
        for question in ("decode", "prefill", "streams8", "cold", "memory"):
            group = [row for row in rows if row.shape == shape and row.question == question]
            ours = [row.value for row in group if row.engine.startswith("narrows")]
            theirs = [row.value for row in group if not row.engine.startswith("narrows")]
            if ours and theirs:
                best = min if question in ("cold", "memory") else max
                print(f"{shape:14} {question:9} narrows / best llama.cpp = {best(ours) / best(theirs):.2f}")


def machine_facts() -> dict[str, object]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    steal = Path("/proc/stat").read_text().split()[8]
    return {
        "cpu": model,
        "cpus": _core.effective_cpus(),
        "isa": _core.isa(),
        "python": platform.python_version(),
        "steal": steal,
    }


def run_shape(name: str, folder: Path, arguments: argparse.Namespace) -> list[Row]:
    sizes = {"threads": arguments.threads, "context": 1024, "streams": 8}
    tokenizer = arguments.tokenizers / ("qwen" if name.startswith("qwen") else "gpt2") / "tokenizer.json"
    shapes.make(name, folder, tokenizer)
    python = HERE / ".venvs/llamacpp/bin/python"
    subprocess.run(
        [python, HERE / "peers/make_gguf.py", folder, "q4_0", "q4_k_m"], check=True, stderr=subprocess.DEVNULL
    )
    specs = [workers.narrows_spec(folder, "q4", **sizes)]
    for kind in ("q4_0", "q4_k_m"):
        specs.append(workers.llamacpp_spec(folder, kind, flash=True, **sizes))
    if arguments.no_flash:
        specs.append(workers.llamacpp_spec(folder, "q4_0", flash=False, **sizes))
    one_stream = {**sizes, "streams": 1}
    cold = [workers.narrows_spec(folder, "q4", **one_stream)]
    cold += [workers.llamacpp_spec(folder, kind, flash=True, **one_stream) for kind in ("q4_0", "q4_k_m")]
    rows = measure_cold(name, cold, arguments.rounds)
    pool = _core.ThreadPool(arguments.threads)
    with ExitStack() as stack:
        running = [stack.enter_context(workers.Worker(spec)) for spec in specs]
        rates, bandwidths, peaks = measure_rounds(running, arguments.rounds, pool)
        rows += make_rows(name, running, rates, statistics.median(bandwidths), statistics.median(peaks))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=["qwen3-0.6b", "llama-3.2-1b"])
    parser.add_argument("--folder", type=Path, default=HERE / ".models", help="where checkpoints are made")
    parser.add_argument(
        "--tokenizers", type=Path, required=True, help="folder with gpt2/ and qwen/ tokenizer.json"
    )
    parser.add_argument("--no-flash", action="store_true", help="llama.cpp without flash attention as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=_core.effective_cpus())
    arguments = parser.parse_args()
    rows = []
    for name in arguments.shapes:
        rows += run_shape(name, arguments.folder / name, arguments)
    print_table(rows)
    print_ratios(rows)
    facts = machine_facts()
    target = HERE / "results" / f"cpu-{_core.isa()}.jsonl"
    target.parent.mkdir(exist_ok=True)
    with target.open("a") as out:
        for row in rows:
            out.write(json.dumps({"time": int(time.time()), **facts, **asdict(row)}) + "\n")


if __name__ == "__main__":
    main()
