"""What attention in integers and 8-bit keys and values cost in quality: KL divergence of their next-token
distributions from those of fp32 attention over 16-bit ones, beside what the weights' rounding alone costs
against the checkpoint's own weights.

    .venv/bin/python benchmarks/attention_quality.py TEXT [MODEL ...]     (no MODEL: the embedded one)

Same text, same windows. In nats, over every position. "kv8": fp32 attention over 8-bit keys and values, as
the rows of an answer attend; "int8 kv8": as the rows of a prompt do by default beside q4 weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from narrows.models.resolve import resolve_model
from narrows.models.tokenizer import Tokenizer
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import AttentionKind, CpuOptions, KvDtype
from narrows.runners.plan import WeightsKind

WINDOWS = 8
Floats = npt.NDArray[np.float64]
PAIRS: tuple[tuple[str, str, str], ...] = (
    ("q8 against the checkpoint's weights", "auto f32", "q8 f32"),
    ("q8 and int8 attention against the same", "auto f32", "q8 int8"),
    ("q8: int8 attention alone", "q8 f32", "q8 int8"),
    ("q8: kv8 alone", "q8 f32", "q8 kv8"),
    ("q4 against the checkpoint's weights", "auto f32", "q4 f32"),
    ("q4 and int8 attention against the same", "auto f32", "q4 int8"),
    ("q4 and kv8 against the same", "auto f32", "q4 kv8"),
    ("q4 and int8 kv8 against the same", "auto f32", "q4 int8 kv8"),
    ("q4: int8 attention alone", "q4 f32", "q4 int8"),
    ("q4: kv8 alone", "q4 f32", "q4 kv8"),
    ("q4: int8 kv8 alone", "q4 f32", "q4 int8 kv8"),
)


WAYS: dict[str, tuple[AttentionKind, KvDtype]] = {
    "f32": ("f32", "f16"),
    "int8": ("int8", "f16"),
    "kv8": ("f32", "int8"),
    "int8 kv8": ("int8", "int8"),
}


def open_runner(folder: Path, weights: WeightsKind, way: str, context: int) -> CpuRunner:
    attention, kv = WAYS[way]
    options = CpuOptions(weights=weights, attention=attention, kv_dtype=kv, max_context=context, cache=False)
    return CpuRunner.from_folder(folder, options)


def log_probabilities(runner: CpuRunner, ids: list[int]) -> Floats:
    """Of every position of one text: [positions, vocab]."""
    logits = runner.logits(ids).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def divergences(
    runners: dict[str, CpuRunner], windows: list[list[int]]
) -> Iterator[list[tuple[Floats, Floats]]]:
    """Per window and pair: KL divergence of every position, and whether the best token is the same."""
    for ids in windows:
        given = {name: log_probabilities(runner, ids) for name, runner in runners.items()}
        yield [
            (
                (np.exp(given[exact]) * (given[exact] - given[other])).sum(axis=1),
                (given[exact].argmax(axis=1) == given[other].argmax(axis=1)).astype(np.float64),
            )
            for _, exact, other in PAIRS
        ]


def compare(model: str | None, text: str, context: int) -> None:
    folder = resolve_model(model, offline=True)
    ids = Tokenizer.from_folder(folder).encode(text[: WINDOWS * context * 8])
    windows = [ids[i : i + context] for i in range(0, min(len(ids), WINDOWS * context), context)]
    runners = {"auto f32": open_runner(folder, "auto", "f32", context)}
    for weights in ("q8", "q4"):
        for way in WAYS:
            runners[f"{weights} {way}"] = open_runner(folder, weights, way, context)
    rows = list(divergences(runners, windows))
    for runner in runners.values():
        runner.close()
    print(f"{folder.resolve().name}: {len(windows)} windows of {context} tokens")
    print(f"{'':42} {'mean KL':>10} {'median':>10} {'99 %':>10} {'99.9 %':>10} {'same top':>10}")
    for index, (name, _, _) in enumerate(PAIRS):
        kl = np.concatenate([row[index][0] for row in rows])
        same = np.concatenate([row[index][1] for row in rows]).mean()
        tail = " ".join(f"{np.quantile(kl, q):10.2e}" for q in (0.5, 0.99, 0.999))
        print(f"{name:42} {kl.mean():10.2e} {tail} {100 * same:8.2f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--context", type=int, default=256, help="tokens in a window")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    for model in arguments.models or [None]:
        compare(model, text, arguments.context)


if __name__ == "__main__":
    main()
