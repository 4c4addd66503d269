"""Numbers as a reader wants them, with how many requests they come from."""

from __future__ import annotations

from narrows.bench.server_figures import Check
from narrows.diagnose.outside.seen import Interval
from narrows.diagnose.text import seconds, three

__all__ = ["check_words", "interval", "per_second", "plural", "seconds", "three"]


def interval(found: Interval) -> str:
    """ "12 ms (11 ms to 13 ms, n = 5)"."""
    return f"{seconds(found.value)} ({seconds(found.low)} to {seconds(found.high)}, n = {found.count})"


def check_words(check: Check) -> str:
    """One of the server's own figures beside the same one seen from outside."""
    if check.is_time:
        both = f"{seconds(check.client)} from outside, {seconds(check.server)} by the server"
    else:
        both = f"{check.client:,.0f} from outside, {check.server:,.0f} by the server"
    verdict = f"differs: {check.note}" if check.differs else "agrees"
    return f"{check.what}: {both} ({check.source}); {verdict}"


def per_second(seconds_each: float) -> str:
    return f"{three(1 / seconds_each)} tokens/s" if seconds_each > 0 else "too fast to tell"


def plural(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
