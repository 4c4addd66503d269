"""What the report says: findings in words, and the report as a value and JSON. Knows no server and no
formatting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from narrows.bench.server_figures import Check
from narrows.diagnose.outside.account import Account
from narrows.diagnose.outside.seen import Seen
from narrows.report import WorkloadSummary

OUTSIDE_VERSION: Final = 1
Tone = Literal["costs", "trouble", "fine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason in words. `share`: of a request's time under the workload; `help`: what a user can do."""

    kind: str
    tone: Tone
    share: float
    words: str
    evidence: tuple[str, ...] = ()
    help: str = ""


@dataclass(frozen=True, slots=True)
class OutsideReport:
    """`findings`: by share, the largest first; what is fine comes last. `ended`: why early, or ""."""

    version: int
    made_at: str  # ISO 8601, UTC
    url: str
    model: str
    route: str
    max_context: int | None
    seconds: float  # that the experiment took
    seed: int  # of the prompts
    ended: str
    workload: WorkloadSummary
    now: Account | None
    findings: tuple[Finding, ...]
    seen: Seen
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()  # the server's own figures of the same requests

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def kinds(self) -> Mapping[str, Finding]:
        return {finding.kind: finding for finding in self.findings}
