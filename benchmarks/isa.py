"""How fast each instruction set of this CPU is beside the best one, and how near to its own ceiling.

    isa.py                              the embedded model
    isa.py FOLDER --rounds 7            a model folder, such as one of shapes.py

One engine an instruction set (NARROWS_ISA), all loaded; every round asks each of them in turn, starting
with another one each time, and measures the ceilings beside every answer: for decode the read bandwidth
over as many bytes as a step reads, for prompts the integer multiply-accumulates of that instruction set.
Ratios are medians over the rounds of (this one / the best one in the same round), by the wall clock and by
CPU time; with --threads 1 the latter holds on a crowded machine too. `generic` is asked for a 32nd of the
tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import shapes
from report import machine_facts
from rows import Question, rate
from workers import Worker, WorkerSpec

from narrows import _core
from narrows.machine.bandwidth import DRAM_BYTES, last_level_cache_bytes
from narrows.models.resolve import resolve_model

HERE = Path(__file__).parent
ROWS = HERE / "results/isa.jsonl"
BEST_FIRST = ("avx512vnni", "avx2", "generic")
QUESTIONS = (
    Question("decode", 1, 32, 97, "decode"),
    Question("prefill", 1, 512, 1, "prefill"),
    Question("streams8", 8, 32, 65, "decode"),
)
LESS = 32  # of the tokens for `generic`
WANTED = 0.6  # of the best path: AVX2


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one engine in one round: speeds, and the share of its ceiling measured beside it."""

    tokens_per_s: float
    fraction: float
    tokens_per_cpu_s: float  # prompt and answer together, all threads, waiting ones too


@dataclass(slots=True)
class Column:
    """One instruction set and what it answered, by question, a value a round."""

    isa: str
    answers: dict[str, list[Answer]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table and of the file; `ratio` is to the best instruction set of this CPU."""

    model: str
    question: str
    isa: str
    tokens_per_s: float  # median
    low: float
    high: float
    fraction_of_ceiling: float  # median
    ratio: float  # median of the rounds' ratios
    ratio_of_highest: float
    ratio_by_cpu_time: float  # median
    threads: int
    rounds: int


def scaled(question: Question, isa: str) -> Question:
    if isa != "generic":
        return question
    return replace(question, prompt=max(4, question.prompt // LESS), tokens=1 + (question.tokens - 1) // LESS)


def fraction_of_ceiling(
    question: Question, tokens_per_s: float, *, num_bytes: float, body_params: int, ceilings: dict[str, float]
) -> float:
    """Decode: the weights once a step, which all streams share; prompts: the body's multiply-accumulates."""
    if question.counts == "prefill":
        return tokens_per_s * body_params / 1e9 / ceilings["gmac_per_s"]
    return tokens_per_s / question.streams * num_bytes / 1e9 / ceilings["gb_per_s"]


def summarize(model: str, columns: Sequence[Column], threads: int) -> list[Line]:
    """Every question, every instruction set; the first column is the best."""
    lines = []
    for question in columns[0].answers:
        best = columns[0].answers[question]
        for column in columns:
            answers = column.answers[question]
            speeds = [answer.tokens_per_s for answer in answers]
            ratios = [a.tokens_per_s / b.tokens_per_s for a, b in zip(answers, best, strict=True)]
            by_cpu = [a.tokens_per_cpu_s / b.tokens_per_cpu_s for a, b in zip(answers, best, strict=True)]
            line = Line(
                model=model,
                question=question,
                isa=column.isa,
                tokens_per_s=round(statistics.median(speeds), 3),
                low=round(min(speeds), 3),
                high=round(max(speeds), 3),
                fraction_of_ceiling=round(statistics.median(a.fraction for a in answers), 4),
                ratio=round(statistics.median(ratios), 4),
                ratio_of_highest=round(max(speeds) / max(b.tokens_per_s for b in best), 4),
                ratio_by_cpu_time=round(statistics.median(by_cpu), 4),
                threads=threads,
                rounds=len(answers),
            )
            lines.append(line)
    return lines


def table(lines: Sequence[Line]) -> list[str]:
    texts = [f"{'question':9} {'isa':11} {'tokens/s':>9} {'low':>9} {'high':>9} of ceiling  of the best"]
    for line in lines:
        short = line.isa == "avx2" and line.ratio < WANTED
        texts.append(
            f"{line.question:9} {line.isa:11} {line.tokens_per_s:9.1f} {line.low:9.1f} {line.high:9.1f} "
            f"{line.fraction_of_ceiling:10.1%}  {line.ratio:.3f} (highest {line.ratio_of_highest:.3f}, "
            f"CPU time {line.ratio_by_cpu_time:.3f})"
            f"{f'  below {WANTED}' if short else ''}"
        )
    return texts


def measure(folder: Path, weights: str, isas: Sequence[str], rounds: int, threads: int) -> list[Column]:
    """Raises EngineError where an engine fails."""
    from tqdm import tqdm

    shape = shapes.read(folder)
    columns = {isa: Column(isa) for isa in isas}
    with ExitStack() as stack:
        running = {isa: stack.enter_context(Worker(spec(folder, weights, isa, threads))) for isa in isas}
        bar = stack.enter_context(tqdm(total=rounds * len(QUESTIONS) * len(isas), disable=None))
        for question in QUESTIONS:
            for index in range(-1, rounds):  # the first round warms up
                turn = max(index, 0) % len(isas)
                for isa in (*isas[turn:], *isas[:turn]):
                    answer = ask(running[isa], scaled(question, isa), shape, index)
                    if index >= 0:
                        columns[isa].answers.setdefault(question.name, []).append(answer)
                        bar.update()
    return list(columns.values())


def spec(folder: Path, weights: str, isa: str, threads: int) -> WorkerSpec:
    command = (sys.executable, str(HERE / "speed_worker.py"), str(folder), "--weights", weights)
    sizes = ("--threads", str(threads), "--context", "640", "--kv-tokens", "1024")
    return WorkerSpec(isa, (*command, *sizes), {"NARROWS_ISA": isa})


def ask(worker: Worker, question: Question, shape: shapes.Shape, index: int) -> Answer:
    num_bytes = worker.hello["bytes"]
    over = num_bytes if num_bytes < last_level_cache_bytes() else DRAM_BYTES
    ceilings = worker.ask("ceilings", bytes=round(over), ms=30)
    sizes = {"streams": question.streams, "prompt": question.prompt, "tokens": question.tokens}
    answer = worker.ask("generate", seed=index + 2, low=shape.vocab // 4, high=shape.vocab, **sizes)
    tokens_per_s = rate(question, answer)
    share = fraction_of_ceiling(
        question, tokens_per_s, num_bytes=num_bytes, body_params=shape.body_params, ceilings=ceilings
    )
    num_tokens = question.streams * (question.prompt + question.tokens - 1)
    return Answer(tokens_per_s, share, num_tokens / answer["cpu_s"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="folders; default: the embedded model")
    parser.add_argument("--weights", default="q4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--isa", nargs="+", choices=BEST_FIRST, help="default: all of this CPU, the best first"
    )
    parser.add_argument("--threads", type=int, default=_core.effective_cpus(), help="default: %(default)s")
    parser.add_argument("--rows", type=Path, default=ROWS, help="appended to; default: results/")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    there = _core.available_isas()
    isas = [isa for isa in BEST_FIRST if isa in (arguments.isa or there)]
    if missing := [isa for isa in isas if isa not in there]:
        parser.error(f"this CPU has no {', '.join(missing)}; it has {', '.join(there)}")
    for model in arguments.models or [None]:
        folder = resolve_model(model)
        name = "embedded" if model is None else folder.resolve().name
        columns = measure(folder, arguments.weights, isas, arguments.rounds, arguments.threads)
        lines = summarize(name, columns, arguments.threads)
        print(f"\n{name}, {arguments.weights}", *table(lines), sep="\n")
        facts = {"time": int(time.time()), **machine_facts(), "weights": arguments.weights}
        with arguments.rows.open("a") as out:
            out.write("".join(json.dumps({**facts, **asdict(line)}) + "\n" for line in lines))


if __name__ == "__main__":
    main()
