"""Decides which guesses a step verifies: as many tokens per second as the machine gives, never fewer.

In: the running requests, what was drawn, how long steps took. Out: guesses per request, mostly none. What a
guess is worth is learned for nothing, by comparing guesses that were not run with what was drawn; only steps
with more rows cost time, and they are run where tokens / T(rows) is expected to grow. A wrong decision costs
time, never a token: see SequenceStep. Reads no clock, and knows no blocks and no tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from narrows.engine.request import Request
from narrows.engine.step import Sampled
from narrows.engine.step_times import GRID, StepTimes

if TYPE_CHECKING:
    from narrows.runners.drafting import Drafter, RecentOutputs

RECENT_TOKENS = 1 << 16  # of outputs of finished requests that are kept: 1.3 MB
# Beyond so many requests the multipliers are the limit, not the memory: rows are no longer almost free, and
# looking for guesses would be time lost.
MAX_STREAMS = 16
LEAST_GAIN = 1.05  # expected tokens per second with guesses / without: what is below is within the errors
REFRESH_STEPS = 128  # so often a step without guesses is run, to know its time: at most 1 % of a gain
LEAST_CHANCE = 0.05  # a guess that all before it are right and it is too; a longer draft adds nothing

# Match lengths that are told apart, and the chance that the next guess is right before any was seen.
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
PRIOR = (0.10, 0.20, 0.35, 0.50, 0.60, 0.70, 0.80, 0.85, 0.90)
BUCKET = [0, *(sum(least <= length for least in LENGTHS) - 1 for length in range(1, LENGTHS[-1] + 1))]
ENGINE_MEMORY = 0.99  # weight of older guesses with each new one: about the last 100, over all requests
REQUEST_MEMORY = 0.9
PRIOR_WEIGHT = 4.0  # guesses that what is known of all requests counts for beside a request's own


class Chances:
    """How often guesses were right, by the length of the match they came from."""

    __slots__ = ("_memory", "hits", "tries")

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self.hits = [0.0] * len(LENGTHS)
        self.tries = [0.0] * len(LENGTHS)

    def add(self, bucket: int, is_hit: bool) -> None:
        self.tries[bucket] = self.tries[bucket] * self._memory + 1.0
        self.hits[bucket] = self.hits[bucket] * self._memory + is_hit

    def chance(self, bucket: int, prior: float) -> float:
        return (self.hits[bucket] + PRIOR_WEIGHT * prior) / (self.tries[bucket] + PRIOR_WEIGHT)


class _Trace:
    """What is known of one request."""

    __slots__ = ("chances", "drafter", "guess", "length", "num_seen")

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.num_seen = 0  # tokens the drafter has
        self.guess: list[int] = []  # for the tokens of the step under way
        self.length = 0  # of the match it comes from
        self.chances = Chances(REQUEST_MEMORY)


class Speculator:
    """Of one engine. `max_draft`: the most guesses for one request in a step."""

    def __init__(self, *, max_draft: int, share: bool) -> None:
        """`share`: outputs of finished requests are a source of guesses for others (see docs/3-serve.md)."""
        from narrows.runners.drafting import Drafter, RecentOutputs

        self.max_draft = max_draft
        self.times = StepTimes()
        self._make_drafter = Drafter
        self._recent: RecentOutputs | None = RecentOutputs(RECENT_TOKENS) if share else None
        self._traces: dict[int, _Trace] = {}
        self._chances = Chances(ENGINE_MEMORY)

    def choose(self, requests: Sequence[Request], rooms: Sequence[int], *, max_rows: int) -> list[list[int]]:
        """The guesses to verify in a step of one row per request, at most `rooms[i]` for requests[i].

        `max_rows` bounds the step. None of the guesses is an end token or stands behind one.
        """
        num_rows = len(requests)
        none: list[list[int]] = [[] for _ in requests]
        if num_rows > MAX_STREAMS:
            return none
        traces = [self._look(request, room) for request, room in zip(requests, rooms, strict=True)]
        chances = [
            self._reach(trace, min(room, len(trace.guess))) for trace, room in zip(traces, rooms, strict=True)
        ]
        if 1 + sum(map(sum, chances)) / num_rows < LEAST_GAIN or self.times.age(num_rows) > REFRESH_STEPS:
            return none
        counts = self._best_counts(chances, max_rows)
        return [trace.guess[:count] for trace, count in zip(traces, counts, strict=True)]

    def observe(self, request: Request, drawn: Sequence[Sampled]) -> None:
        """Compares the guess made for a step with what was drawn in it, verified or not."""
        trace = self._traces.get(request.request_id)
        if trace is None or not trace.guess:
            return
        for index, (guess, sampled) in enumerate(zip(trace.guess, drawn, strict=False)):
            is_hit = guess == sampled.token_id
            bucket = _bucket(trace.length + index)
            trace.chances.add(bucket, is_hit)
            self._chances.add(bucket, is_hit)
            if not is_hit:
                break
        trace.guess = []

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._traces.pop(request.request_id, None)
        if self._recent is not None and request.num_output > 0:
            self._recent.add(request.token_ids[request.num_prompt :])

    def _look(self, request: Request, room: int) -> _Trace:
        trace = self._traces.get(request.request_id)
        if trace is None:
            trace = self._traces[request.request_id] = _Trace(self._make_drafter(self._recent))
        trace.guess = []
        if room > 0:
            trace.drafter.extend(request.token_ids[trace.num_seen :])
            trace.num_seen = len(request.token_ids)
            # The policy wants to know how one guess more would have done, hence at least one.
            trace.guess, trace.length = trace.drafter.draft(self.max_draft)
            for index, token_id in enumerate(trace.guess):
                if token_id in request.params.stop_token_ids:
                    del trace.guess[index:]
                    break
        return trace

    def _reach(self, trace: _Trace, most: int) -> list[float]:
        """[j]: the chance that the first j + 1 guesses are right. A guess that is right makes the match longer."""
        chances: list[float] = []
        reached = 1.0
        for index in range(most):
            bucket = _bucket(trace.length + index)
            prior = self._chances.chance(bucket, PRIOR[bucket])
            reached *= trace.chances.chance(bucket, prior)
            if reached < LEAST_CHANCE:
                break
            chances.append(reached)
        return chances

    def _best_counts(self, chances: list[list[float]], max_rows: int) -> list[int]:
        """How many guesses of each request give the most tokens per second; the likeliest come first."""
        counts = [0] * len(chances)
        num_rows = len(chances)
        plain_s = self.times.estimate(num_rows)
        if plain_s is None:
            return counts
        ranked = sorted(((c, index) for index, of in enumerate(chances) for c in of), reverse=True)
        ranked = ranked[: max_rows - num_rows]
        best, best_rate = 0, LEAST_GAIN * num_rows / plain_s
        expected = float(num_rows)
        for taken, (chance, _) in enumerate(ranked, start=1):
            expected += chance
            if num_rows + taken in GRID or taken == len(ranked):
                seconds = self.times.estimate(num_rows + taken)
                if seconds is not None and expected / seconds > best_rate:
                    best, best_rate = taken, expected / seconds
        for _, index in ranked[:best]:
            counts[index] += 1
        return counts


def _bucket(length: int) -> int:
    return BUCKET[min(length, LENGTHS[-1])]
