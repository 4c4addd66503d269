"""All verdicts on what was seen, ranked: failures, then by share of a request's time, then what is fine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from narrows.diagnose.outside import alone_verdicts as alone
from narrows.diagnose.outside import crowd_verdicts as crowd
from narrows.diagnose.outside.account import Account
from narrows.diagnose.outside.findings import Finding
from narrows.diagnose.outside.seen import Seen

Judge = Callable[[Seen, Account], Finding | None]
JUDGES: Final[tuple[Judge, ...]] = (
    alone.overhead,
    alone.prefill,
    alone.attention,
    alone.decode,
    alone.context,
    alone.irregular,
    alone.chunks,
    alone.bunched,
    crowd.batching,
    crowd.queue,
    crowd.meeting,
    crowd.collapse,
    crowd.refusals,
    alone.prefix,
    crowd.cancel,
)
REST: Final = 0.01  # of a request's time
RANKS: Final = {"costs": 1, "trouble": 1, "fine": 2}


def verdicts(seen: Seen, now: Account | None) -> tuple[Finding, ...]:
    """Without an account (prompts or answers alone failed) only failures can be told."""
    found = [] if now is None else [finding for judge in JUDGES if (finding := judge(seen, now))]
    rest = 1 - sum(finding.share for finding in found)
    if now is not None and rest > REST:
        found.append(
            Finding("rest", "costs", rest, "smaller causes, none of which stands out from the noise")
        )
    found.sort(key=lambda one: (RANKS[one.tone], -one.share, one.tone != "trouble"))
    failed = crowd.failures(seen, now)
    return (failed, *found) if failed else tuple(found)
