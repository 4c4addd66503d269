"""A long prompt meets a running answer: does the answer stand still while the prompt is read?

In: an Asker, what is known of requests sent alone. Out: MeetingSeen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from narrows.bench.latency import latency_of
from narrows.bench.record import Record
from narrows.diagnose.outside.alone import FEW_TOKENS, gaps_before
from narrows.diagnose.outside.ask import Asker
from narrows.diagnose.outside.fits import median
from narrows.diagnose.outside.seen import MeetingSeen

TRIES: Final = 3
BEFORE: Final = 8  # chunks of the answer before the prompt is sent
AHEAD_S: Final = 0.25  # time to open connections
MAX_TOKENS: Final = 512
MAX_TRACE: Final = 400


async def see_meeting(
    asker: Asker,
    *,
    short: int,
    long: int,
    alone_s: float,
    first_s: float,
    tpot_s: float,
    gap_s: float,
    until_s: float,
) -> MeetingSeen | None:
    """`alone_s`, `first_s`: TTFT of the long and the short prompt; `gap_s`: between chunks. None where the
    answer ended too soon.
    """
    loop = asyncio.get_running_loop()
    lead_s = 2 * first_s + BEFORE * max(gap_s, tpot_s)  # a first token may be late
    tokens = min(MAX_TOKENS, BEFORE + int((lead_s + 3 * alone_s) / tpot_s))
    if asker.server.max_context is not None:
        tokens = min(tokens, asker.server.max_context - short * 2)
    at_s = AHEAD_S + lead_s
    found: list[tuple[Record, Record]] = []
    for _ in range(TRIES):
        began_s = loop.time()
        plans = [
            asker.plan(short, tokens, at_s=AHEAD_S),
            asker.plan(long, FEW_TOKENS, at_s=at_s),
        ]
        phase = await asker.at_times(plans)
        if asker.is_stopped() or not all(record.is_ok for record in phase.records):
            break
        stream, prompt = sorted(phase.records, key=lambda one: one.intended_s)
        found.append((stream, prompt))
        if loop.time() + (loop.time() - began_s) > until_s:
            break
    return meeting_of(long, alone_s, found)


def meeting_of(long: int, alone_s: float, tries: Sequence[tuple[Record, Record]]) -> MeetingSeen | None:
    """Pairs of (the stream's record, the prompt's record)."""
    usual, longest, lost, ttft = [], [], [], []
    trace: list[tuple[float, float]] = []
    for stream, prompt in tries:
        latency = latency_of(prompt)
        gaps = gaps_before(stream)
        sent_s = prompt.sent_s or prompt.intended_s
        before = [gap for at_s, gap in gaps if at_s <= sent_s]
        if latency is None or len(before) < 2:
            continue
        usual_s = float(np.median(before))
        end_s = min(prompt.pieces[0].at_s, stream.pieces[-1].at_s)
        # A gap that began before the prompt's own first token may have been spent on it.
        during = [gap for at_s, gap in gaps if at_s > sent_s and at_s - gap < end_s]
        if not during:
            continue
        usual.append(usual_s)
        ttft.append(latency.ttft_s)
        longest.append(max(during))
        lost.append(max(0.0, sum(during) - usual_s * len(during)))
        trace = trace or [(at_s - sent_s, gap) for at_s, gap in gaps][:MAX_TRACE]
    middle = median(longest)
    if middle is None:
        return None
    return MeetingSeen(
        prompt_tokens=long,
        tries=len(longest),
        alone_s=alone_s,
        ttft_s=float(np.median(ttft)),
        gap_s=float(np.median(usual)),
        longest_gap_s=middle,
        lost_s=float(np.median(lost)),
        trace=tuple(trace),
    )
