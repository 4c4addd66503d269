"""Requests sent alone: TTFT over prompt length, whether a known beginning is read again, and the answer's
pace.

In: an Asker and until when. Out: values of seen.py. Each part asks what its time allows, from cheap to dear.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from narrows.bench.latency import latency_of
from narrows.bench.record import Record
from narrows.diagnose.outside.ask import Asker
from narrows.diagnose.outside.fits import median
from narrows.diagnose.outside.seen import DecodeSeen, LengthSeen, PrefixSeen

LENGTHS: Final = (32, 128, 512, 2048)
OF_CONTEXT: Final = 0.75  # the longest prompt at most: an answer must fit behind it
SHORTEST: Final = 8
ROUNDS: Final = 5
FEW_TOKENS: Final = 2
DECODE_TOKENS: Final = (16, 96)  # of an answer whose pace is taken, at least and at most
DECODE_ANSWERS: Final = 3
LATE_GAPS: Final = 5.0  # times the median
LATE_S: Final = 0.02  # and so much more than it: less is the scheduler's on either side


def lengths_for(max_context: int | None) -> tuple[int, ...]:
    """Prompt lengths a factor of four apart, shrunk alike where the context is shorter than that."""
    if max_context is None or LENGTHS[-1] <= max_context * OF_CONTEXT:
        return LENGTHS
    longest = int(max_context * OF_CONTEXT)
    found = [max(SHORTEST, round(one * longest / LENGTHS[-1])) for one in LENGTHS]
    return tuple(sorted(set(found)))


@dataclass(frozen=True, slots=True)
class Lengths:
    """`too_long`: prompts that would take more time than there is; `failing`: that the server failed on."""

    seen: tuple[LengthSeen, ...]
    too_long: tuple[int, ...]
    failing: tuple[int, ...]


async def see_lengths(asker: Asker, lengths: Sequence[int], until_s: float) -> Lengths:
    loop = asyncio.get_running_loop()
    found: dict[int, list[Record]] = {}
    failing: list[int] = []
    await asker.alone(asker.plan(lengths[0], FEW_TOKENS))  # the first request of all pays for what lies idle
    for _ in range(ROUNDS):
        for length in lengths:
            if length in failing:
                continue
            # A line needs two lengths: for them there is half of all the time.
            limit_s = until_s if len(found) > 1 else max(until_s, loop.time() + asker.remaining_s / 2)
            if found and loop.time() + _expected_s(found, length) > limit_s:
                continue
            record = await asker.alone(asker.plan(length, FEW_TOKENS))
            if record is not None and record.is_ok:
                found.setdefault(length, []).append(record)
            elif record is not None and found and length not in found and record.error != "no_tokens":
                failing.append(length)  # beyond its context, perhaps
    seen = [_length(length, found[length]) for length in sorted(found)]
    too_long = tuple(one for one in lengths if one not in found and one not in failing)
    return Lengths(tuple(filter(None, seen)), too_long if found else (), tuple(failing))


def _expected_s(found: Mapping[int, Sequence[Record]], length: int) -> float:
    """Of a prompt of `length`: as before, else by a line through the two longest ones; through zero and one
    where there is but one. The best times count: one late answer must not hide all longer prompts.
    """
    if length in found:
        return min(one.end_s or 0.0 for one in found[length])
    longest = sorted(found)[-2:]
    times = [min(record.end_s or 0.0 for record in found[one]) for one in longest]
    if len(longest) == 1:
        return times[0] * length / longest[0]
    slope = max(0.0, times[1] - times[0]) / (longest[1] - longest[0])
    return times[1] + slope * (length - longest[1])


def _length(length: int, records: Iterable[Record]) -> LengthSeen | None:
    pairs = [(one, latency) for one in records if (latency := latency_of(one)) is not None]
    times = tuple(latency.ttft_s for _, latency in pairs)
    middle = median(times)
    if middle is None:
        return None
    counted = [one.num_prompt for one, _ in pairs if one.num_prompt is not None]
    return LengthSeen(round(float(np.median(counted))) if counted else length, middle, times)


async def see_prefix(
    asker: Asker, longest: int, fresh: Sequence[float], until_s: float, *, num_texts: int = 2
) -> PrefixSeen | None:
    """`fresh`: TTFTs of new prompts of `longest` tokens. The same beginning comes with other ends, as the
    turns of a conversation do.
    """
    loop = asyncio.get_running_loop()
    tail = max(4, longest // 16)
    new, again = list(fresh), list[float]()
    for _ in range(num_texts):
        text = asker.text(longest - tail)
        for turn in range(3):
            if again and loop.time() > until_s:
                break
            ended = f"{text} {asker.text(tail)}"
            record = await asker.alone(asker.plan(longest, FEW_TOKENS, text=ended))
            latency = None if record is None or not record.is_ok else latency_of(record)
            if latency is not None:
                (again if turn else new).append(latency.ttft_s)
    first, later = median(new), median(again)
    return None if first is None or later is None else PrefixSeen(longest - tail, first, later)


async def see_decode(
    asker: Asker, prompts: Sequence[int], tpot_s: float, until_s: float
) -> tuple[DecodeSeen, ...]:
    """Answers after prompts of each length. `tpot_s`: a guess, for how many tokens there is time."""
    loop = asyncio.get_running_loop()
    found = []
    for place, prompt in enumerate(prompts):
        share_s = (until_s - loop.time()) / (len(prompts) - place)
        tokens = decode_tokens(asker, prompt, share_s / DECODE_ANSWERS, tpot_s)
        records: list[Record] = []
        for _ in range(DECODE_ANSWERS):
            if records and loop.time() + (records[-1].end_s or 0.0) > until_s:
                break
            record = await asker.alone(asker.plan(prompt, tokens))
            if record is not None and record.is_ok:
                records.append(record)
        if (seen := decode_of(prompt, records)) is not None:
            found.append(seen)
            tpot_s = seen.tpot_s.value
    return tuple(found)


def decode_tokens(asker: Asker, prompt: int, seconds: float, tpot_s: float) -> int:
    """How long an answer may be: by time, by habit, by the context."""
    least, most = DECODE_TOKENS
    if asker.server.max_context is not None:
        most = max(4, min(most, asker.server.max_context - prompt - prompt // 16))
    wanted = int(seconds / tpot_s) if tpot_s > 0 else most
    return min(most, max(min(least, most), wanted))


def decode_of(prompt: int, records: Sequence[Record]) -> DecodeSeen | None:
    pairs = [(one, latency) for one in records if (latency := latency_of(one)) is not None]
    pace = median([latency.tpot_s for _, latency in pairs if latency.tpot_s is not None])
    every = [gap for _, latency in pairs for gap in latency.gap_s]
    gaps = [gap for gap in every if gap > 0]
    if pace is None or not gaps:
        return None
    middle = float(np.median(gaps))
    late = [gap - middle for gap in gaps if gap > max(LATE_GAPS * middle, middle + LATE_S)]
    counted = [one for one, latency in pairs if not latency.is_counted_by_chunks]
    tokens = sum(one.num_output or 0 for one in counted)
    chunks = sum(len(one.pieces) for one in counted)
    return DecodeSeen(
        prompt_tokens=prompt,
        tpot_s=pace,
        gap_s=middle,
        longest_gap_s=max(gaps),
        num_gaps=len(gaps),
        num_late=len(late),
        late_share=sum(late) / sum(gaps),
        tokens_per_chunk=tokens / chunks if chunks else None,
        sizes_vary=_sizes_vary(counted),
        bunched_share=1 - len(gaps) / len(every),
    )


def _sizes_vary(records: Sequence[Record]) -> bool | None:
    """The last chunk of an answer is left out: it holds what remains."""
    sizes = [piece.tokens for one in records for piece in one.pieces[:-1]]
    if not sizes or any(size is None for size in sizes):
        return None
    return len(set(sizes)) > 1


def gaps_before(record: Record) -> list[tuple[float, float]]:
    """(when a chunk arrived, the time since the chunk before), but for chunks of one read."""
    return [
        (later.at_s, later.at_s - earlier.at_s)
        for earlier, later in pairwise(record.pieces)
        if later.at_s > earlier.at_s
    ]
