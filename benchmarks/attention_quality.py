"""What attention in integers costs in quality: KL divergence of its next-token distributions from those
of fp32 attention, beside what the weights' rounding alone costs against the checkpoint's own weights.

    .venv/bin/python benchmarks/attention_quality.py TEXT [MODEL ...]     (no MODEL: the embedded one)

Same text, same windows, 16-bit keys and values in all runs. In nats, over every position.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from narrows.models.resolve import resolve_model
from narrows.models.tokenizer import Tokenizer
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import AttentionKind, CpuOptions
from narrows.runners.plan import WeightsKind

WINDOWS = 8
Floats = npt.NDArray[np.float64]


def log_probabilities(
    folder: Path, texts: list[list[int]], weights: WeightsKind, attention: AttentionKind
) -> Floats:
    """Of every position of every text: [positions, vocab]."""
    options = CpuOptions(weights=weights, attention=attention, cache=False)
    runner = CpuRunner.from_folder(folder, options)
    logits = np.concatenate([runner.logits(text) for text in texts]).astype(np.float64)
    runner.close()
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def shown(name: str, exact: Floats, other: Floats) -> str:
    """One line of llama.cpp's statistics for a pair of runs."""
    kl = (np.exp(exact) * (exact - other)).sum(axis=1)
    same = (exact.argmax(axis=1) == other.argmax(axis=1)).mean()
    return (
        f"{name:42} {kl.mean():10.2e} {np.median(kl):10.2e} {np.quantile(kl, 0.99):10.2e} "
        f"{np.quantile(kl, 0.999):10.2e} {100 * same:8.2f} %"
    )


def compare(model: str | None, text: str) -> None:
    folder = resolve_model(model, offline=True)
    tokenizer = Tokenizer.from_folder(folder)
    context = CpuRunner.from_folder(folder, CpuOptions(cache=False)).info.max_context
    ids = tokenizer.encode(text[: WINDOWS * context * 8])
    texts = [ids[i : i + context] for i in range(0, min(len(ids), WINDOWS * context), context)]
    exact = log_probabilities(folder, texts, "auto", "f32")
    print(f"{folder.resolve().name}: {len(exact)} positions, windows of {context}")
    print(f"{'':42} {'mean KL':>10} {'median':>10} {'99 %':>10} {'99.9 %':>10} {'same top':>10}")
    for weights in ("q8", "q4"):
        rounded = log_probabilities(folder, texts, weights, "f32")
        print(shown(f"{weights} against the checkpoint's weights", exact, rounded))
        both = log_probabilities(folder, texts, weights, "int8")
        print(shown(f"{weights} and int8 attention against the same", exact, both))
        print(shown(f"{weights}: int8 attention alone", rounded, both))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    for model in arguments.models or [None]:
        compare(model, text)


if __name__ == "__main__":
    main()
