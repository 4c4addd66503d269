"""What is asked of every engine, and the rows that come of the answers.

Pure: answers in, rows out. Knows no processes and no files.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """One measurement of a running engine; `counts` says which tokens over which time."""

    name: str
    streams: int
    prompt: int
    tokens: int
    counts: str  # "decode": after the first token; "prefill": the prompt; "answer": all, prefill included


QUESTIONS = {
    question.name: question
    for question in (
        Question("decode", 1, 32, 97, "decode"),
        Question("decode1024", 1, 1024, 65, "decode"),
        Question("prefill", 1, 512, 1, "prefill"),
        Question("prefill2048", 1, 2048, 1, "prefill"),
        Question("streams8", 8, 128, 64, "answer"),
        Question("streams32", 32, 128, 64, "answer"),
    )
}
# Asked of fresh processes: start to first token, the same with conversion before it, peak memory.
OTHERS = ("cold", "convert", "first", "memory")
ORDER = (*QUESTIONS, *OTHERS)
CONTEXT = 2304  # tokens of one stream: the longest question, rounded up
KV_TOKENS = 8192  # tokens of all streams: 32 x (128 + 64), rounded up


@dataclass(frozen=True, slots=True)
class Row:
    """One engine, one question: the median, the spread (low, high) and the physics, or the error."""

    shape: str
    engine: str
    question: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    bits: int
    bytes_per_token: float = 0
    fraction_of_ceiling: float | None = None
    ceiling: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured between the groups of the same run."""

    gb_per_s: float
    gmac_per_s: float


def rate(question: Question, answer: dict[str, float]) -> float:
    """Tokens per second as the table counts them."""
    if question.counts == "decode":
        return question.streams * (question.tokens - 1) / answer["rest_s"]
    if question.counts == "prefill":
        return question.streams * question.prompt / answer["first_s"]
    return question.streams * question.tokens / (answer["first_s"] + answer["rest_s"])


def unit(question: str) -> str:
    if question in QUESTIONS:
        return "tokens/s"
    return "MB" if question == "memory" else "s"


def lower_is_better(question: str) -> bool:
    return question in OTHERS


def error_row(shape: str, engine: str, bits: int, question: str, error: str) -> Row:
    return Row(shape, engine, question, None, None, None, unit(question), bits, error=error)


def value_row(shape: str, engine: str, bits: int, question: str, values: Sequence[float]) -> Row:
    """Median and spread of the values of a question that has no ceiling."""
    middle = statistics.median(values)
    return Row(shape, engine, question, middle, min(values), max(values), unit(question), bits)


def rate_row(
    shape: str,
    engine: str,
    bits: int,
    question: str,
    values: Sequence[float],
    *,
    num_bytes: float,
    body_params: int,
    ceilings: Ceilings,
) -> Row:
    """Rates with the fraction of the ceiling: weights' bytes for decode, the body's MACs for prefill."""
    middle = statistics.median(values)
    fraction, ceiling = None, ""
    if QUESTIONS[question].counts == "decode":
        fraction, ceiling = (
            middle * num_bytes / 1e9 / ceilings.gb_per_s,
            f"{ceilings.gb_per_s:.1f} GB/s",
        )
    elif QUESTIONS[question].counts == "prefill":
        fraction = middle * body_params / 1e9 / ceilings.gmac_per_s
        ceiling = f"{ceilings.gmac_per_s:.0f} GMAC/s"
    spread = (middle, min(values), max(values), unit(question), bits)
    return Row(shape, engine, question, *spread, num_bytes, fraction, ceiling)
