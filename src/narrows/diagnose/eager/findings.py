"""What was seen of a service, put together: its figures, and the cause of every second of a request.

In: a Service, its Runs, ceilings, a workload. Out: EagerFindings, Figures, seconds by cause. A request is its
prompt and its answer; of a module without tokens it is one unit of work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from narrows.diagnose.eager.phases import phase_of
from narrows.diagnose.eager.seen import EagerCeilings, Name, Run, Service
from narrows.diagnose.process import Spell
from narrows.diagnose.workload import Workload
from narrows.report import Figures, OpReport, PhaseReport

EMULATED: Final = 0.9  # of fp32's rate: 16-bit numbers that multiply slower than that gain nothing
HALF: Final = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class EagerFindings:
    """`workload` None: a module without tokens. `kv_bytes_per_token`: of one stream."""

    service: Service
    runs: Mapping[Name, Run]
    ceilings: EagerCeilings
    workload: Workload | None = None
    kv_bytes_per_token: int = 0
    spell: Spell | None = None
    phases: Mapping[Name, PhaseReport] = field(init=False)

    def __post_init__(self) -> None:
        phases = {name: phase_of(run, self.ceilings) for name, run in self.runs.items()}
        object.__setattr__(self, "phases", phases)

    @property
    def units(self) -> dict[Name, int]:
        """How many units of each phase a request takes: the prompts of a batch are read one after another."""
        if self.workload is None:
            return {"unit": 1}
        return {"prefill": self.workload.streams, "decode": self.workload.output_tokens - 1}

    @property
    def memory_bytes(self) -> int:
        if self.workload is None:
            return self.service.weight_bytes
        tokens = self.workload.streams * (self.workload.prompt_tokens + self.workload.output_tokens)
        return self.service.weight_bytes + tokens * self.kv_bytes_per_token

    @property
    def figures(self) -> Figures:
        return self.compose({name: run.wall_s for name, run in self.runs.items()}, self.memory_bytes)

    def compose(self, seconds: Mapping[Name, float], memory_bytes: int) -> Figures:
        """Of a static batch: all streams begin together, as generate() runs them."""
        if self.workload is None:
            unit_s = seconds["unit"]
            return Figures(unit_s, unit_s, 1 / unit_s, memory_bytes, 1000 * unit_s, 0.0)
        streams, output = self.workload.streams, self.workload.output_tokens
        ttft_s, tpot_s = streams * seconds["prefill"], seconds["decode"]
        tokens_per_s = streams * output / (ttft_s + (output - 1) * tpot_s)
        return Figures(ttft_s, tpot_s, tokens_per_s, memory_bytes, 1000 / tokens_per_s, 0.0)

    def is_emulated(self, phase: PhaseReport) -> bool:
        """16-bit products that are slower than those of float32 at the shapes of this phase."""
        own, full = (self.ceilings.rates.get(name) for name in (self.service.dtype, "float32"))
        if self.service.dtype not in HALF or self.service.device == "cuda" or own is None or full is None:
            return False
        if phase.name == "decode":
            return own.vector < EMULATED * full.vector
        return own.matrix < EMULATED * full.matrix


def causes(findings: EagerFindings) -> dict[str, float]:
    """Seconds of a request, every one with one cause; nothing of phases that were not profiled."""
    found: dict[str, float] = {}
    for name, phase in findings.phases.items():
        count = findings.units.get(name, 0)
        if not phase.ops:
            continue
        waiting = "launches" if findings.service.device == "cuda" else "dispatch"
        found[waiting] = found.get(waiting, 0.0) + phase.outside_s * count
        for op in phase.ops:
            for cause, seconds in of_op(findings, phase, op):
                found[cause] = found.get(cause, 0.0) + seconds * count
    return found


def of_op(findings: EagerFindings, phase: PhaseReport, op: OpReport) -> tuple[tuple[str, float], ...]:
    """(cause, seconds) of one group of one unit; the seconds add up to the group's."""
    if op.group == "matrices":
        return _of_matrices(findings, phase, op)
    if op.group == "attention":
        is_kv = phase.name == "decode" and op.ceiling == "memory"
        return (("decode-kv" if is_kv else "attention", op.seconds),)
    if op.group in ("copies", "conversion", "sampling"):
        return ((op.group, op.seconds),)
    if op.group == "views":
        return (("dispatch", op.seconds),)
    # What the calls alone would cost, on single numbers; the rest is the operators' own work.
    calls = findings.runs[phase.name].counts[op.group].calls if findings.service.device == "cpu" else 0  # type: ignore[index]
    calling_s = min(op.seconds, calls * findings.ceilings.call_s)
    return (("dispatch", calling_s), ("elementwise", op.seconds - calling_s))


def _of_matrices(findings: EagerFindings, phase: PhaseReport, op: OpReport) -> tuple[tuple[str, float], ...]:
    if findings.is_emulated(phase):
        return (("emulated", op.seconds),)
    if op.ceiling == "overhead":
        return (("matrices", op.seconds),)
    cause = f"{phase.name}-{op.ceiling}"
    if op.ceiling == "memory" and findings.service.dtype == "float32":
        # Half of the bytes are there only because a weight has four of them.
        return ((cause, op.seconds / 2), ("fp32-weights", op.seconds / 2))
    return ((cause, op.seconds),)
