"""EagerFindings as a Report: the same one that the native diagnosis makes, without its sliders.

In: EagerFindings, the machine's profile, Narrows' candidates. Out: Report. No formatting.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from narrows.diagnose.candidate import Candidate
from narrows.diagnose.eager.findings import EagerFindings
from narrows.diagnose.eager.remedies import eager_remedies
from narrows.diagnose.eager.verdicts import eager_verdicts
from narrows.machine.profile import MachineProfile
from narrows.report import REPORT_VERSION, MachineSummary, ModelSummary, Report, Target, WorkloadSummary


def eager_report_of(
    findings: EagerFindings,
    profile: MachineProfile,
    target: Target,
    *,
    candidates: Sequence[Candidate] = (),
    notes: tuple[str, ...] = (),
    now: datetime | None = None,
) -> Report:
    return Report(
        version=REPORT_VERSION,
        made_at=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        target=target,
        machine=_machine(findings, profile),
        model=_model(findings),
        workload=_workload(findings),
        phases=tuple(findings.phases.values()),
        now=findings.figures,
        verdicts=eager_verdicts(findings),
        remedies=eager_remedies(findings, candidates, target),
        notes=notes,
        present=findings.service.words,
    )


def _machine(findings: EagerFindings, profile: MachineProfile) -> MachineSummary:
    ceilings, service = findings.ceilings, findings.service
    gpu = profile.gpus[0].name if profile.gpus else "a GPU"
    return MachineSummary(
        cpu=profile.cores.model if service.device == "cpu" else gpu,
        isa=profile.cores.isas[0] if service.device == "cpu" and profile.cores.isas else "cuda",
        threads=service.threads.intra,
        gb_per_s=ceilings.gb_per_s,
        gmac_per_s=ceilings.gflop_per_s / 2,
        memory_bytes=profile.memory_bytes,
        source="measured" if ceilings.rates or service.device == "cuda" else "predicted",
        unknown=dict(profile.unknown),
        mac_format=service.dtype,
    )


def _model(findings: EagerFindings) -> ModelSummary:
    service = findings.service
    phase = findings.phases.get("decode") or findings.phases.get("unit")
    step = sum(op.read_bytes for op in phase.ops if op.group == "matrices") if phase is not None else 0
    return ModelSummary(
        name=service.name,
        family=service.family,
        parameters=service.parameters,
        layers=service.layers,
        weights=service.dtype,
        weight_bytes=service.weight_bytes,
        step_weight_bytes=step,
        kv_bytes_per_token=findings.kv_bytes_per_token,
        max_context=service.max_context,
    )


def _workload(findings: EagerFindings) -> WorkloadSummary:
    if findings.workload is not None:
        return findings.workload.summary()
    return WorkloadSummary("a unit of work", 0, 0, 1, None, 0)
