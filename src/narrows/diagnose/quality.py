"""What a remedy costs in quality, as far as anybody measured it, and where that stands written.

Plain facts: our own figures are those of benchmarks/results/format_quality.jsonl, KL divergence in nats of
next-token distributions from those of the bf16 checkpoint.
"""

from __future__ import annotations

from typing import Final

from narrows.report import Quality

OURS: Final = "benchmarks/format_quality.py, docs/decisions/2026-11-21-four-bit-quality.md"
SAME: Final = Quality("none: the same tokens, to the bit", "tests/runners, tests/engine")
FLOATS: Final = Quality("none beyond the rounding of float sums in another order", "no measurement of ours")
UNKNOWN: Final = Quality("unknown until measured on this model and its task", "no measurement of ours")
KV8: Final = Quality(
    "KL 0.0005 to 0.004 nats: hidden beside 4-bit weights, as much again as 8-bit ones lose"
    " (measured on models of 0.3 and 4.3 million weights)",
    "benchmarks/attention_quality.py, docs/decisions/2026-11-21-eight-bit-pages.md",
)
SMALL: Final = " (measured on models of 0.3 to 4.3 million weights, which suffer more than larger ones)"

# kind of weights -> (mean KL, share of positions with the same first token, perplexity ratio), embedded model
MEASURED: Final = {
    "q8": (2.5e-4, 0.990, 1.000),
    "q4": (2.71e-2, 0.913, 1.026),
    "q4-fast": (4.01e-2, 0.898, 1.037),
}


def of_weights(kind: str, *, is_embedded: bool, from_kind: str, item_bytes: int) -> Quality:
    """Of packing a float checkpoint so. `item_bytes`: of the checkpoint's own weights."""
    if kind not in MEASURED:
        if item_bytes > 2:
            return Quality("rounding to bf16: small, not measured here", "no measurement of ours")
        return Quality("none: the checkpoint's own precision", "no rounding takes place")
    divergence, same_top, perplexity = MEASURED[kind]
    words = (
        f"KL {divergence:.2g} nats, the same first choice at {same_top:.1%} of positions, perplexity "
        f"x{perplexity:.3f}"
    )
    against = (
        "" if from_kind in ("auto", "f32", "f16", "bf16") else "; against bf16, not against " + from_kind
    )
    return Quality(words + against + ("" if is_embedded else SMALL), OURS)
