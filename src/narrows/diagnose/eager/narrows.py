"""The same model under Narrows: predicted from its cost model, measured where --check asks for it.

In: a Question of the native diagnosis, EagerFindings. Out: Candidates, the rows of the side-by-side table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from narrows.diagnose.candidate import WEIGHTS, Candidate, command, weights_setup
from narrows.diagnose.errors_known import known_error
from narrows.diagnose.findings import Findings
from narrows.diagnose.measured import MeasuredCeilings
from narrows.diagnose.observe import Question, without_running
from narrows.diagnose.predict import CeilingsSource, CostModel, Predictor, Present
from narrows.diagnose.quality import of_weights
from narrows.diagnose.setup import Setup
from narrows.report import Beside, Check, Figures

KIND: Final = "narrows"
SHORT_STEP_S: Final = 1e-3


def predicted(question: Question, ceilings: CeilingsSource | None = None) -> Findings:
    """By arithmetic over ceilings measured now; nothing of Narrows is run."""
    findings = without_running(question).findings
    model = CostModel(ceilings or MeasuredCeilings(question.profile))
    return replace(findings, predictor=Predictor(model, Present(findings.setup, {})))


def candidates(question: Question, findings: Findings) -> Iterator[Candidate]:
    """As `narrows serve` would run it by itself first, then with other weights. None it cannot run."""
    if not findings.subject.is_known:
        return
    given = question.choice.words()
    recipe = findings.setup.recipe
    bits = recipe.matrix_format(findings.setup.spec.hidden).describe()
    words = f"the same model under Narrows, {bits} weights"
    line = command(findings, given, {})
    yield _candidate(findings, KIND, words, findings.setup, recipe.weights, line)
    if question.choice.weights != "auto":
        return
    for kind in ("q8", "q4", "q4-fast"):
        other = weights_setup(findings, kind)
        if other.recipe != recipe:
            bits = f"{other.recipe.matrix_format(other.spec.hidden).describe()} weights"
            words = f"the same model under Narrows, {bits}"
            line = command(findings, given, WEIGHTS[kind])
            yield _candidate(findings, f"{KIND}:{kind}", words, other, kind, line)


def _candidate(
    findings: Findings, kind: str, words: str, setup: Setup, weights: str, line: str | None
) -> Candidate:
    subject = findings.subject
    quality = of_weights(
        weights,
        is_embedded=subject.given is None,
        from_kind="auto",
        item_bytes=subject.embedding_item_bytes,
    )
    figures = findings.predictor.figures(setup)
    kind = kind.replace(KIND, kind_of(figures))
    notes = ("predicted without its server and tokenizer; --check measures it",)
    return Candidate(kind, words, figures, quality, line, notes)


def kind_of(figures: Figures) -> str:
    """Short steps are predicted worse."""
    return f"{KIND}-short" if figures.tpot_s < SHORT_STEP_S else KIND


def beside(now: Figures, then: Figures | None, found: Figures | None = None) -> tuple[Beside, ...]:
    """Rows of: present, predicted, measured."""
    error = 0.0 if then is None else known_error(kind_of(then))[0]

    def row(what: str, unit: str, name: str, off: float = error) -> Beside:
        first, second, third = (
            None if figures is None else float(getattr(figures, name)) for figures in (now, then, found)
        )
        return Beside(what, unit, first or 0.0, second, off, third)

    return (
        row("TTFT", "s", "ttft_s"),
        row("TPOT", "s", "tpot_s"),
        row("throughput", "tokens/s", "tokens_per_s"),
        row("memory", "bytes", "memory_bytes", 0.0),
    )


def checks(then: Figures, found: Figures, quiet: float) -> tuple[Check, ...]:
    return (
        Check("under Narrows", "ttft", then.ttft_s, found.ttft_s, "s", quiet),
        Check("under Narrows", "tpot", then.tpot_s, found.tpot_s, "s", quiet),
    )
