"""Many requests at once: what the server gains by batching, how many it takes, and whether it stops when
left.

In: an Asker, what is known of requests sent alone. Out: LevelSeen, CancelSeen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from narrows.bench.latency import latency_of
from narrows.bench.load import Phase
from narrows.bench.record import Record
from narrows.diagnose.outside.ask import Asker, is_refused
from narrows.diagnose.outside.fits import median
from narrows.diagnose.outside.seen import CancelSeen, LevelSeen, parallel_of

ROUNDS: Final = 3  # of all levels, where they are short
RISE: Final = 1.05  # of throughput: less is none
FLAT_LEVELS: Final = 2  # in a row without a rise end the search
LONG: Final = 4  # times a usual answer: what the streams that are cut were to say


async def see_levels(
    asker: Asker, *, prompt: int, tokens: int, most: int, until_s: float
) -> tuple[LevelSeen, ...]:
    """Bursts of 1, 2, 4 ... up to `most` requests, while throughput rises and there is time; then the same
    again, so that a busy moment of the machine does not fall on one level alone.
    """
    loop = asyncio.get_running_loop()
    phases: dict[int, list[Phase]] = {}
    took_s: dict[int, float] = {}

    async def burst(concurrency: int) -> None:
        began_s = loop.time()
        phase = await asker.together([asker.plan(prompt, tokens) for _ in range(concurrency)])
        took_s[concurrency] = loop.time() - began_s
        if not asker.is_stopped():
            phases.setdefault(concurrency, []).append(phase)

    num_flat, best = 0, 0.0
    for concurrency in (1 << power for power in range(most.bit_length())):
        if asker.is_stopped() or (took_s and loop.time() + 2 * max(took_s.values()) > until_s):
            break
        await burst(concurrency)
        if concurrency not in phases:
            break
        level = level_of(concurrency, phases[concurrency])
        num_flat = 0 if level.tokens_per_s > best * RISE else num_flat + 1
        best = max(best, level.tokens_per_s)
        if level.failed == concurrency or num_flat >= FLAT_LEVELS:
            break
    for _ in range(ROUNDS - 1):
        for concurrency in phases:
            if not asker.is_stopped() and loop.time() + took_s[concurrency] <= until_s:
                await burst(concurrency)
    return tuple(level_of(concurrency, found) for concurrency, found in phases.items())


def level_of(concurrency: int, phases: Sequence[Phase]) -> LevelSeen:
    records = [record for phase in phases for record in phase.records]
    ok = [record for record in records if record.is_ok]
    latencies = [latency for record in ok if (latency := latency_of(record)) is not None]
    refused = [record for record in records if is_refused(record)]
    window_s = sum(_window_s(phase) for phase in phases)
    tokens = sum(latency.num_tokens for latency in latencies)
    return LevelSeen(
        concurrency=concurrency,
        rounds=len(phases),
        ok=len(ok),
        refused=len(refused),
        failed=len(records) - len(ok) - len(refused),
        retry_after_s=tuple(one.retry_after_s for one in refused if one.retry_after_s is not None),
        tokens_per_s=tokens / window_s if window_s > 0 else 0.0,
        ttft_s=median([latency.ttft_s for latency in latencies]),
        ttft_max_s=max((latency.ttft_s for latency in latencies), default=0.0),
        tpot_s=median([latency.tpot_s for latency in latencies if latency.tpot_s is not None]),
        e2e_s=float(np.median([latency.e2e_s for latency in latencies])) if latencies else 0.0,
        decoding=max((most_at_once(phase.records) for phase in phases), default=0),
    )


def _window_s(phase: Phase) -> float:
    ok = [record for record in phase.records if record.is_ok and record.pieces]
    if not ok:
        return 0.0
    return max(one.pieces[-1].at_s for one in ok) - min(one.intended_s for one in ok)


def most_at_once(records: Sequence[Record]) -> int:
    """Most answers that were between their first and last chunk at one time."""
    spans = [(one.pieces[0].at_s, one.pieces[-1].at_s) for one in records if one.is_ok and one.pieces]
    return max((sum(low <= first <= high for low, high in spans) for first, _ in spans), default=0)


async def see_cancel(
    asker: Asker, levels: Sequence[LevelSeen], *, prompt: int, tokens: int
) -> CancelSeen | None:
    """Fills the server, goes away, and asks once more. None where the levels give nothing to compare with."""
    whole = [level for level in levels if level.ok == level.concurrency * level.rounds and level.tpot_s]
    if not whole:
        return None
    parallel = parallel_of(tuple(levels))
    cut = min(whole[-1].concurrency, parallel or whole[-1].concurrency)
    crowd = next(level for level in whole if level.concurrency >= cut)
    assert crowd.tpot_s is not None
    pace_s = crowd.tpot_s.value
    long = LONG * tokens
    if asker.server.max_context is not None:
        long = min(long, asker.server.max_context - prompt * 2)
    ttft_s = whole[0].ttft_s.value if whole[0].ttft_s else 0.0
    lead = max(2, tokens // 4)
    plans = [asker.plan(prompt, long) for _ in range(cut)]
    await asker.cut_after(plans, (ttft_s if parallel else crowd.ttft_max_s) + lead * pace_s)
    before = None if asker.is_stopped() else await asker.generated()
    record = await asker.alone(asker.plan(prompt, tokens))
    latency = None if record is None or not record.is_ok else latency_of(record)
    if latency is None:
        return None
    after = await asker.generated()
    left_s = max(0, long - lead) * pace_s
    ignored_s = whole[0].e2e_s + left_s if parallel is not None else _beside(levels, cut, whole[0].e2e_s)
    return CancelSeen(
        cut=cut,
        e2e_s=latency.e2e_s,
        alone_s=whole[0].e2e_s,
        ignored_s=ignored_s,
        tokens_after=None if before is None or after is None else after - before - latency.num_tokens,
    )


def _beside(levels: Sequence[LevelSeen], cut: int, alone_s: float) -> float:
    """What a request takes beside so many streams that nobody reads any more."""
    return max((level.e2e_s for level in levels if level.concurrency <= cut), default=alone_s)
