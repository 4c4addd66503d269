"""Narrows against its peers on this CPU: decode, prefill, many streams, starts, memory, in one
interleaved run.

Random weights in real shapes. Every round asks every engine in turn and measures the ceilings
between, so that a busy neighbour slows all sides alike; medians and spreads over the rounds. Prints
a table and appends JSON lines to results/. Before the first run: `benchmarks/peers/setup.sh`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import engines
import report
import rounds
import shapes
from rows import ORDER, QUESTIONS, Row
from workers import EngineError

from narrows import _core

HERE = Path(__file__).parent
EMBEDDED = "embedded"  # the model inside the package: the only one with trained weights
EMBEDDED_FOLDER = HERE.parent / "src/narrows/demo/model"
DEFAULT_SHAPES = ("qwen3-0.6b", "llama-3.2-1b")


def make_model(name: str, folder: Path, tokenizers: Path | None) -> None:
    """The checkpoint in `folder`; the embedded model is copied there, conversions go beside it."""
    if name == EMBEDDED:
        shutil.copytree(EMBEDDED_FOLDER, folder, dirs_exist_ok=True)
    elif not (folder / "config.json").exists():
        if tokenizers is None:
            raise SystemExit(f"{folder} is not there yet: --tokenizers is needed to make it")
        family = "qwen" if name.startswith("qwen") else "gpt2"
        shapes.make(name, folder, tokenizers / family / "tokenizer.json")


def choose_engines(arguments: argparse.Namespace) -> list[engines.Engine]:
    chosen = engines.choose(arguments.peers, arguments.kinds)
    if arguments.no_flash:
        chosen += [
            engines.Engine(engine.peer, engine.kind, " no-fa", ("--flash", "0"))
            for engine in chosen
            if engine.peer == "llamacpp" and engine.kind == "q4_0"
        ]
    return chosen


def run_shape(name: str, arguments: argparse.Namespace, pool: _core.ThreadPool) -> list[Row]:
    folder = arguments.folder / name
    make_model(name, folder, arguments.tokenizers)
    race = rounds.Race(
        name,
        shapes.read(folder),
        folder,
        choose_engines(arguments),
        arguments.threads,
        arguments.rounds,
    )
    for engine in race.engines:
        rounds.note(race, f"{engine.name}, converted weights")
        try:
            again = arguments.reconvert and not engine.suffix  # a second setting shares the weights
            race.converted[engine] = engines.convert(engine, folder, again=again)
        except EngineError as error:
            race.fail(engine, "", error)
    asked = arguments.questions
    rounds.measure_starts(race, asked)
    questions = [question for question in QUESTIONS.values() if question.name in asked]
    together = arguments.together or (not arguments.by_turns and rounds.fits_together(race))
    if questions and together:
        rounds.race_together(race, questions, pool)
    elif questions:
        rounds.race_by_turns(race, questions, pool)
    return rounds.make_rows(race, asked)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    known = [*shapes.SHAPES, EMBEDDED]
    parser.add_argument("shapes", nargs="*", default=DEFAULT_SHAPES, help=f"of {', '.join(known)}")
    parser.add_argument(
        "--folder",
        type=Path,
        default=HERE / ".models",
        help="where checkpoints are made",
    )
    parser.add_argument("--tokenizers", type=Path, help="folder with gpt2/ and qwen/ tokenizer.json")
    peers = [peer for peer in engines.PEERS if peer != engines.OURS]
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers)
    kinds = sorted({kind for _, _, kinds in engines.PEERS.values() for kind in kinds})
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=[], help="weights; default: all")
    parser.add_argument("--questions", nargs="+", choices=ORDER, default=list(ORDER))
    parser.add_argument(
        "--no-flash",
        action="store_true",
        help="llama.cpp without flash attention as well",
    )
    parser.add_argument("--reconvert", action="store_true", help="convert again, timed in this run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=_core.effective_cpus())
    parser.add_argument("--out", type=Path, help="JSON lines are appended here; default: in results/")
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument("--together", action="store_true", help="all engines loaded at once, fit or not")
    memory.add_argument("--by-turns", action="store_true", help="one engine loaded at a time")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.shapes if name not in known]
    if unknown:
        parser.error(f"unknown shape {unknown[0]}: one of {', '.join(known)}")
    return arguments


def main() -> None:
    arguments = parse()
    pool = _core.ThreadPool(arguments.threads)
    target = arguments.out or HERE / "results" / f"cpu-{_core.isa()}.jsonl"
    rows: list[Row] = []
    for name in arguments.shapes:
        made = run_shape(name, arguments, pool)
        report.append(made, report.machine_facts(), target)  # at once: a later shape may take hours
        rows += made
    print("\n".join([*report.table(rows), *report.ratios(rows)]))


if __name__ == "__main__":
    main()
