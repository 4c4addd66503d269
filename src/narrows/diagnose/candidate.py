"""A remedy before it is compared with the present, and the command that would apply it.

In: Findings, the options that the model runs with. Out: Candidate; words of `narrows serve`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from narrows.diagnose.findings import Findings
from narrows.diagnose.setup import Setup
from narrows.report import Figures, Quality
from narrows.runners.options import CpuOptions

# kind -> what `narrows serve` is told
WEIGHTS: Final[Mapping[str, Mapping[str, str]]] = {
    "bf16": {"weights": "bf16"},
    "q8": {"weights": "q8"},
    "q4": {"weights": "q4"},
    "q4-fast": {"weights": "q4", "group-size": "128", "head": "q4"},
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A remedy before it is compared with the present."""

    kind: str
    words: str
    figures: Figures
    quality: Quality
    command: str | None = None
    notes: tuple[str, ...] = ()


def command(findings: Findings, present: Mapping[str, str], changes: Mapping[str, str]) -> str | None:
    """The words of `narrows serve`; None where Narrows cannot run this model."""
    if not findings.subject.is_known:
        return None
    options = {**present, **changes}
    if options.get("weights") not in ("q4", "q8"):
        options.pop("group-size", None)
    given = [] if findings.subject.given is None else [findings.subject.given]
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return shlex.join(["narrows", "serve", *given, *words])


def weights_setup(findings: Findings, kind: str) -> Setup:
    """The setup with other weights."""
    told = WEIGHTS[kind]
    group = told.get("group-size")
    options = CpuOptions(
        weights=told["weights"],  # type: ignore[arg-type]
        group=None if group is None else int(group),
        head=told.get("head", "auto"),  # type: ignore[arg-type]
        kv_dtype=findings.kv_dtype,
        attention=findings.attention,
    )
    recipe = findings.subject.recipe(options)
    kv, in_int8 = findings.subject.attention(options, recipe)
    return replace(findings.setup, recipe=recipe, kv=kv, int8_attention=in_int8)
