"""How wrong predictions were, by kind of remedy: the width of the intervals.

In: a kind. Out: a share e; of 9 in 10 remedies that were predicted and measured the truth lay between
gain / (1 + e) and gain * (1 + e). Figures of benchmarks/diagnose_growth.py (docs/1-diagnose.md). What nobody
could measure has the cost model's own error on unchanged models, or a wide guess that says so.
"""

from __future__ import annotations

from typing import Final

MEASURED: Final = {"weights": 0.10, "batch": 0.16, "threads": 0.10}
COUNTED: Final = {
    "chunk": 0.20,
    "speculate": 0.20,
    "prune": 0.20,
    "distil": 0.20,
    "kv": 0.20,
    "narrows": 0.20,
}
ARITHMETIC: Final = 0.5
SHORT: Final = 0.46  # of steps below a millisecond


def known_error(kind: str) -> tuple[float, str]:
    """(e, where it comes from)."""
    family = kind.split(":")[0]
    if family in MEASURED:
        return MEASURED[family], "9 in 10 pairs of measured steps of 1 ms and more (docs/1-diagnose.md)"
    if family in COUNTED:
        return COUNTED[family], "the cost model's error on models as they are (docs/growth.md)"
    if family == "narrows-short":
        return (
            SHORT,
            "9 in 10 pairs of measured steps below a millisecond (docs/1-diagnose.md)",
        )
    return ARITHMETIC, "arithmetic only: nothing like it was run here, half as much again either way"
