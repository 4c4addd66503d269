"""Findings as a Report.

In: Observed. Out: Report, with the notes that say what was not seen. No formatting.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from narrows.diagnose.findings import Findings
from narrows.diagnose.observe import Observed
from narrows.diagnose.remedies import remedies
from narrows.diagnose.setup import parameters
from narrows.diagnose.verdicts import verdicts
from narrows.diagnose.what_if import what_if
from narrows.report import REPORT_VERSION, MachineSummary, ModelSummary, Report


def report(seen: Observed, present: Mapping[str, str], *, now: datetime | None = None) -> Report:
    """`present`: the options the model runs with."""
    findings = seen.findings
    return Report(
        version=REPORT_VERSION,
        made_at=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        target=findings.target,
        machine=_machine(findings),
        model=_model(findings),
        workload=findings.workload.summary(),
        phases=tuple(findings.phases[name] for name in _shown_phases(findings)),
        now=findings.figures,
        verdicts=verdicts(findings),
        remedies=remedies(findings, present, seen.drafting),
        notes=_notes(seen),
        what_if=what_if(findings),
    )


def _shown_phases(findings: Findings) -> tuple[str, ...]:
    return ("prefill", "decode") if findings.setup.streams == 1 else ("prefill", "decode", "mixed")


def _machine(findings: Findings) -> MachineSummary:
    near = findings.predictor.model.near(findings.setup, "decode")
    profile = findings.profile
    return MachineSummary(
        cpu=profile.cores.model,
        isa=profile.cores.isas[0] if profile.cores.isas else "unknown",
        threads=findings.setup.threads,
        gb_per_s=near.gb_per_s,
        gmac_per_s=near.gmac_per_s,
        memory_bytes=profile.memory_bytes,
        source="measured" if findings.is_measured else "predicted",
        unknown=dict(profile.unknown),
    )


def _model(findings: Findings) -> ModelSummary:
    setup, subject = findings.setup, findings.subject
    recipe = setup.recipe
    layers = recipe.matrix_format(setup.spec.hidden).describe()
    head = recipe.head_format(setup.spec.hidden).describe()
    step_bytes = sum(
        op.read_bytes for op in findings.phases["decode"].ops if op.group not in ("attention", "other")
    )
    return ModelSummary(
        name=subject.name,
        family=setup.spec.family,
        parameters=parameters(setup.spec),
        layers=len(setup.spec.layers),
        weights=layers if layers == head else f"{layers}, head {head}",
        weight_bytes=setup.weights.packed,
        step_weight_bytes=step_bytes,
        kv_bytes_per_token=round(setup.kv_bytes_per_token),
        max_context=setup.spec.max_positions,
        missing=subject.missing,
    )


def _notes(seen: Observed) -> tuple[str, ...]:
    findings = seen.findings
    notes = list(findings.setup.spec.notes)
    if findings.workload.scaled != 1.0:
        notes.append(
            f"all lengths of the workload were multiplied by {findings.workload.scaled:.3g}: its longest "
            f"request does not fit the context of {findings.setup.spec.max_positions:,} tokens"
        )
    if not findings.is_measured:
        notes.append("nothing was run: times are predicted from the stored profile of this machine")
    if seen.started is not None and seen.started.tokenizer_problem:
        notes.append(f"no tokenizer, so the host's time is not known: {seen.started.tokenizer_problem}")
    if seen.drafting is not None:
        notes.append(
            "times are without speculation; serving speculates by itself where steps take 1 ms or more"
        )
    return tuple(notes)
