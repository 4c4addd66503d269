"""How wrong predictions were, by kind of remedy: the width of the intervals.

In: a kind. Out: a share e; the truth of 9 in 10 checks lay between gain / (1 + e) and gain * (1 + e).
Figures of benchmarks/diagnose_check.py (docs/1-diagnose.md); kinds that nothing here can apply have the
cost model's own error instead, or a wide guess that says so.
"""

from __future__ import annotations

from typing import Final

CHECKED: Final = {
    "weights": 0.20,
    "threads": 0.20,
    "batch": 0.20,
    "chunk": 0.20,
    "speculate": 0.30,
}
COUNTED: Final = {"prune": 0.20, "distil": 0.20, "kv": 0.20}
ARITHMETIC: Final = 0.5


def known_error(kind: str) -> tuple[float, str]:
    """(e, where it comes from)."""
    family = kind.split(":")[0]
    if family in CHECKED:
        return CHECKED[family], "9 in 10 checks of this remedy (docs/1-diagnose.md)"
    if family in COUNTED:
        return COUNTED[family], "the cost model's error on unchanged models (docs/growth.md)"
    return ARITHMETIC, "arithmetic only: nothing like it was run here, half as much again either way"
