"""How the time of prompts and decode steps grows with model, context, streams and threads, and what
models/step_time.py says beforehand.

    growth.py --list                          the models, their bytes and points
    growth.py qwen3-0.6b:q4 9m:q4 [--one]     measures the points of these models, appends rows
    growth.py --calibrate                     measures the points the rates are fitted to, and fits them
    growth.py --report                        table and errors of all rows, docs/growth.svg

Measuring knows no rates and predicting needs no machine: rows keep the ceilings around every try.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import growth_chart
from growth_fit import fit
from growth_models import ALL_SHAPES, make_runner, outline, touch
from growth_points import Clock, Point, Row, Try, step_bytes
from growth_report import line, markdown, summary
from report import machine_facts

from narrows import _core
from narrows.models import costs, sizes
from narrows.models.step_time import Rates

HERE = Path(__file__).parent
ROWS = HERE / "results/growth.jsonl"
CALIBRATION = HERE / "results/growth-calibration.jsonl"
RATES = HERE / "results/growth-rates.json"
ALONE = 0.9  # of the highest int8 peak seen: below it somebody else was computing
KV_BYTES = 4 << 30  # of all pages of a point

# model -> (prompt lengths, contexts of one stream, streams at context 128, (streams, context) besides)
Plan = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[tuple[int, int]]]
STREAMS = (2, 4, 8, 16, 32, 64)
PLANS: dict[str, Plan] = {
    "9m:q4": ((128, 512, 2048, 8192, 32768), (128, 1024, 4096, 16384, 32000), STREAMS, ()),
    "9m:q8": ((512,), (128, 4096), (8,), ()),
    "33m:q4": ((512, 8192), (128, 4096, 32000), (4, 16, 64), ()),
    "100m:q4": ((128, 512, 2048, 8192), (128, 1024, 4096, 16384, 32000), STREAMS, ((8, 4096), (64, 1024))),
    "100m:q8": ((512,), (128,), (8,), ()),
    "100m:bf16": ((), (128,), (), ()),
    "qwen3-0.6b:q4": ((128, 512, 2048), (128, 1024, 4096, 16384, 32000), STREAMS, ((8, 1024), (16, 2048))),
    "qwen3-0.6b:q8": ((128,), (128, 4096), (16,), ()),
    "qwen3-0.6b:bf16": ((), (128,), (8,), ()),
    "llama-3.2-1b:q4": ((128,), (128, 4096), (16,), ()),
    "llama-3.2-1b:bf16": ((), (128,), (), ()),
    "qwen3-4b:q4": ((128,), (128,), (8,), ()),
    "qwen3-4b:q8": ((), (128,), (), ()),
}
ONE_THREAD: dict[str, Plan] = {
    "9m:q4": ((512,), (128,), (), ()),
    "qwen3-0.6b:q4": ((128,), (128, 4096), (16,), ()),
}
CALIBRATION_PLANS: dict[str, Plan] = {
    "9m:q4": ((2048, 8192), (128, 4096), (8,), ()),
    "9m:q8": ((512,), (), (), ()),
    "100m:bf16": ((128,), (128,), (16,), ()),
    "qwen3-0.6b:q4": ((512,), (128, 16384), (8, 16, 32), ()),
    "qwen3-0.6b:q8": ((128,), (128,), (16,), ()),
    "llama-3.2-1b:q4": ((128,), (), (), ()),
}


def points_of(model: str, plan: Plan, threads: int) -> list[Point]:
    shape, weights = model.split(":")
    prompts, contexts, streams, others = plan
    points = [Point(shape, weights, threads, "prefill", tokens=n) for n in prompts]
    points += [Point(shape, weights, threads, "decode", context=n) for n in contexts]
    points += [Point(shape, weights, threads, "decode", context=128, streams=n) for n in streams]
    return points + [Point(shape, weights, threads, "decode", context=c, streams=n) for n, c in others]


def measure(model: str, points: list[Point], rounds: int) -> list[Row]:
    shape, weights = model.split(":")
    known = outline(shape, weights)
    per_block = sizes.kv_bytes_per_token(known.spec, kv=known.kv) * costs.KV_BLOCK
    points = [point for point in points if point.num_blocks * per_block <= KV_BYTES]
    num_blocks = max(point.num_blocks for point in points)
    threads = points[0].threads
    runner = make_runner(shape, weights, threads=threads, num_blocks=num_blocks)
    touch(runner, num_blocks)
    rows = Clock(runner, _core.ThreadPool(threads)).measure(points, rounds)
    runner.close()
    return rows


def append(rows: Sequence[Row], target: Path) -> None:
    facts = {"time": int(time.time()), **machine_facts()}
    with target.open("a") as out:
        out.write("".join(json.dumps({**facts, **row.as_json()}) + "\n" for row in rows))


def read_rows(source: Path) -> list[Row]:
    """A row for every point with all its tries, but for those during which others were on the cores."""
    rows = [Row.from_json(json.loads(line)) for line in source.read_text().splitlines() if line.strip()]
    best: dict[int, float] = {}
    merged: dict[Point, list[Try]] = {}
    for row in rows:
        best[row.point.threads] = max(
            [best.get(row.point.threads, 0.0), *(one.gmac_per_s for one in row.tries)]
        )
    for row in rows:
        alone = [one for one in row.tries if one.gmac_per_s >= ALONE * best[row.point.threads]]
        merged.setdefault(row.point, []).extend(alone)
    return [Row(point, tries) for point, tries in merged.items() if tries]


def read_rates() -> Rates:
    return Rates(**json.loads(RATES.read_text())) if RATES.exists() else Rates()


def calibrate(threads: int, rounds: int) -> None:
    CALIBRATION.unlink(missing_ok=True)
    for model, plan in CALIBRATION_PLANS.items():
        append(measure(model, points_of(model, plan, threads), rounds), CALIBRATION)
    refit()


def refit() -> None:
    rows = read_rows(CALIBRATION)
    rates = fit(rows, Rates())
    RATES.write_text(
        json.dumps({name: float(f"{value:.3g}") for name, value in asdict(rates).items()}) + "\n"
    )
    print(*(line(row, rates) for row in rows), RATES.read_text(), sep="\n")


def show_plans() -> None:
    for model, plan in PLANS.items():
        shape, weights = model.split(":")
        known = outline(shape, weights)
        size = sizes.weight_bytes(known.spec, known.recipe).step
        points = points_of(model, plan, 2)
        print(f"{model:18} {size / 1e6:8.1f} MB {len(points):3} points", max(map(step_bytes, points)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help=f"SHAPE:WEIGHTS of {', '.join(ALL_SHAPES)}")
    parser.add_argument("--one", action="store_true", help="one thread instead of all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("prefill", "decode"))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--refit", action="store_true", help="fits again to the rows of the last --calibrate")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    threads = 1 if arguments.one else _core.effective_cpus()
    if arguments.list:
        show_plans()
    if arguments.calibrate:
        calibrate(threads, arguments.rounds)
    if arguments.refit:
        refit()
    rates = read_rates()
    for model in arguments.models:
        points = points_of(model, (ONE_THREAD if arguments.one else PLANS)[model], threads)
        points = [point for point in points if arguments.only in (None, point.kind)]
        rows = measure(model, points, arguments.rounds)
        append(rows, ROWS)
        print(*(line(row, rates) for row in rows), sep="\n", flush=True)
    if arguments.report:
        rows = read_rows(ROWS)
        print(*markdown(rows, rates), "", *summary(rows, rates), sep="\n")
        growth_chart.write(rows, rates, HERE.parent / "docs/growth.svg")


if __name__ == "__main__":
    main()
