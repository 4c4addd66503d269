"""Everything a verdict or a remedy is drawn from, in one value; and where the time of a request goes.

In: a setup, a predictor, what was measured. Out: Findings, and the seconds of a request by cause. Every
second has exactly one cause, so shares add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from narrows.diagnose.loading import LoadingTimes
from narrows.diagnose.predict import Predictor
from narrows.diagnose.process import Spell
from narrows.diagnose.setup import Setup
from narrows.diagnose.subject import Subject
from narrows.diagnose.workload import Workload
from narrows.machine.profile import Link, MachineProfile
from narrows.report import Figures, PhaseReport, Target
from narrows.runners.options import AttentionKind, KvDtype

ENGINE: Final = "host"
STALLS: Final = "batching"


@dataclass(frozen=True, slots=True)
class Findings:
    """`loading`, `spell` None: nothing was run. `link`: between hosts, where one was measured or given."""

    subject: Subject
    setup: Setup
    workload: Workload
    profile: MachineProfile
    predictor: Predictor
    phases: Mapping[str, PhaseReport]
    target: Target
    max_running: int = 64
    kv_dtype: KvDtype = "auto"  # as asked for
    attention: AttentionKind = "auto"  # as asked for
    loading: LoadingTimes | None = None
    spell: Spell | None = None
    quiet: float = 1.0  # share of the CPU time asked for that was got while loads were timed
    link: Link | None = None
    hosts: int = 1

    @property
    def figures(self) -> Figures:
        return self.predictor.figures(self.setup)

    @property
    def is_measured(self) -> bool:
        return bool(self.predictor.present.loads)


def causes(findings: Findings) -> dict[str, float]:
    """Seconds of one request by cause: the phases' operators by the ceiling that is near them."""
    setup, present = findings.setup, findings.predictor.present
    figures = findings.figures
    host_s = present.host_s + present.sampling_s
    reading = findings.phases["prefill" if setup.streams == 1 else "mixed"]
    units = 1 if setup.streams == 1 else setup.prompt_steps
    steps = setup.output - 1
    found: dict[str, float] = {}

    def add(cause: str, seconds: float) -> None:
        found[cause] = found.get(cause, 0.0) + seconds

    for op in reading.ops:
        add(_prefill_cause(op.group, op.ceiling), op.seconds * units)
    for op in findings.phases["decode"].ops:
        add(_decode_cause(op.group, op.ceiling), op.seconds * steps)
    add(ENGINE, reading.outside_s * units + findings.phases["decode"].outside_s * steps)
    add(ENGINE, present.request_s + host_s * (setup.prompt_steps + steps))
    alone_s = findings.phases["decode"].seconds + host_s
    add(STALLS, max(0.0, (figures.tpot_s - alone_s) * steps))
    return found


def _prefill_cause(group: str, ceiling: str) -> str:
    return f"prefill-{'memory' if ceiling == 'latency' else ceiling}"


def _decode_cause(group: str, ceiling: str) -> str:
    if group == "attention" and ceiling in ("memory", "latency"):
        return "decode-kv"
    return f"decode-{'memory' if ceiling == 'latency' else ceiling}"
