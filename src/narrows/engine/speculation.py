"""Decides which guesses a step verifies: as many tokens per second as the machine gives, never fewer.

In: the running requests and how long steps took. Out: guesses per request, mostly none. What a guess is worth
is learned for nothing, as drafters compare what they would have guessed with what was drawn; only steps with
more rows cost time, and they are run where tokens / T(rows) is expected to grow. A wrong decision costs time,
never a token: see SequenceStep. Reads no clock, and knows no blocks and no tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING

from narrows.engine.request import Request
from narrows.engine.step_times import GRID, StepTimes

if TYPE_CHECKING:
    from narrows.runners.drafting import Drafter, RecentOutputs

RECENT_TOKENS = 1 << 16  # of outputs of finished requests that are kept: 1.3 MB
EVERYONES_MEMORY = 0.99  # what is known of all requests: about their last 100 guesses of each kind
# Beyond so many requests the multipliers are the limit, not the memory: rows are no longer almost free, and
# looking for guesses would be time lost.
MAX_STREAMS = 16
LEAST_GAIN = 1.1  # expected tokens per second with guesses / without: what is below is within the errors
REFRESH_STEPS = 128  # so often a step without guesses is run, to know its time: at most 1 % of a gain
PLAN_STEPS = 16  # so long a plan is kept: making one takes as long as a step of the smallest models
# Looking for a guess takes so long per request (2.6 GHz, Zen 4, out of cold caches). After PATIENCE looks for
# nothing steps pass without one, until looking takes no more than this share of them. Steps of 1 ms and more
# never pass.
LOOK_S = 5e-6
LOOK_SHARE = 0.005
PATIENCE = 8
MAX_REST = 15
# Guessing itself takes microseconds of Python a step. Where a plain step takes less than AUTO_STEP_S, as with
# a few million parameters, "auto" leaves it at that, and looks at the clock again once in a while.
AUTO_STEP_S = 1e-3
SHORT_STEPS_REST = 63

Rooms = Callable[[Request, int], int]  # (request, most) -> guesses that it may have now


class _Plan:
    """For one number of requests: what guesses cost, and how good they must be to be looked at."""

    __slots__ = ("bar", "costs", "is_short", "rest", "until")

    def __init__(self, times: StepTimes, num_rows: int, most: int, least_step_s: float) -> None:
        self.until = times.num_steps + PLAN_STEPS
        self.costs: list[tuple[int, float]] = []  # (guesses, T with them / T without), fewest first
        self.bar = inf  # guesses expected to be right, below which none are run
        self.rest = 0  # steps to pass after a look for nothing
        self.is_short = False  # a plain step: not worth a look
        if times.age(num_rows) > REFRESH_STEPS:
            self.until = times.num_steps + 1
            return
        # No more than twice the most that was ever measured: what is hoped is not far from what is known.
        most_rows = min(num_rows + most, 2 * max(times.most_rows, num_rows))
        grid = [rows for rows in GRID if num_rows < rows <= most_rows]
        plain_s, *seconds = times.estimates([num_rows, *grid])
        if plain_s < least_step_s:
            self.is_short = True
            self.until = times.num_steps + 1  # contexts grow, and so do steps
            return
        self.costs = [(rows - num_rows, s / plain_s) for rows, s in zip(grid, seconds, strict=True)]
        least = min(cost for _, cost in self.costs)
        self.bar = num_rows * max(LEAST_GAIN - 1, LEAST_GAIN * least - 1)
        self.rest = min(MAX_REST, int(LOOK_S * num_rows / (LOOK_SHARE * plain_s)))


class Speculator:
    """Of one engine. `max_draft`: the most guesses for one request in a step."""

    def __init__(self, *, max_draft: int, share: bool, least_step_s: float = 0.0) -> None:
        """`share`: outputs of finished requests are a source of guesses for others (see docs/3-serve.md).
        Where a step of one token per request takes less than `least_step_s`, nothing is guessed.
        """
        from narrows.runners.drafting import Chances, Drafter, RecentOutputs

        self.max_draft = max_draft
        self._least_step_s = least_step_s
        self.times = StepTimes()
        self._make_drafter = Drafter
        self._everyone = Chances(EVERYONES_MEMORY)
        self._recent: RecentOutputs | None = RecentOutputs(RECENT_TOKENS) if share else None
        # By request: its drafter, which owns a copy of its text; how many of its tokens that has.
        self._drafters: dict[int, Drafter] = {}
        self._num_read: dict[int, int] = {}
        self._plans: dict[int, _Plan] = {}
        self._num_fruitless = 0  # looks since the last guess was run
        self._rest = 0  # steps to pass

    def is_resting(self) -> bool:
        """Asked once before a step: whether it is to pass without `choose` and without being timed."""
        if self._rest == 0:
            return False
        self._rest -= 1
        return True

    def choose(self, requests: Sequence[Request], rooms: Rooms, *, max_rows: int) -> list[list[int]] | None:
        """The guesses to verify in a step of one row per request, or None; `max_rows` bounds the step."""
        num_rows = len(requests)
        if num_rows > MAX_STREAMS:
            return None
        plan = self._plans.get(num_rows)
        if plan is None or plan.until <= self.times.num_steps:
            plan = _Plan(self.times, num_rows, self.max_draft * num_rows, self._least_step_s)
            self._plans[num_rows] = plan
        if plan.is_short:
            self._rest = SHORT_STEPS_REST
            return None
        expected = 0.0
        for request in requests:
            expected += self._follow(request)
        if expected < plan.bar:
            self._look_less(plan)
            return None
        drafts = [self._draft(request, rooms(request, self.max_draft)) for request in requests]
        counts = self._best_counts([chances for _, chances in drafts], plan, max_rows)
        if counts is None:
            plan.bar = expected * LEAST_GAIN  # while the plan lasts, only what is better is looked at
            self._look_less(plan)
            return None
        self._num_fruitless = 0
        num_guesses = sum(counts)
        if self.times.age(num_rows + num_guesses) > PLAN_STEPS:  # made on hope: its cost is known after it
            plan.until = self.times.num_steps + 1
        return [guess[:count] for (guess, _), count in zip(drafts, counts, strict=True)]

    def _look_less(self, plan: _Plan) -> None:
        self._num_fruitless += 1
        if self._num_fruitless >= PATIENCE:
            self._rest = plan.rest

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._drafters.pop(request.request_id, None)
        self._num_read.pop(request.request_id, None)
        if self._recent is not None and request.num_output > 0:
            self._recent.add(request.token_ids[request.num_prompt :])

    def _follow(self, request: Request) -> float:
        """Shows the drafter what was drawn; how many of its next guesses are expected to be right."""
        request_id, tokens = request.request_id, request.token_ids
        drafter = self._drafters.get(request_id)
        if drafter is None:
            drafter = self._drafters[request_id] = self._make_drafter(self._everyone, self._recent)
            self._num_read[request_id] = request.num_prompt
            drafter.read(tokens[: request.num_prompt])
        drawn = tokens[self._num_read[request_id] :]
        self._num_read[request_id] = len(tokens)
        return drafter.follow(drawn, self.max_draft)

    def _draft(self, request: Request, room: int) -> tuple[list[int], list[float]]:
        """Guesses and their chances: no end token, and none behind one."""
        guess, chances = self._drafters[request.request_id].draft(room)
        for index, token_id in enumerate(guess):
            if token_id in request.params.stop_token_ids:
                return guess[:index], chances[:index]
        return guess, chances

    def _best_counts(self, chances: list[list[float]], plan: _Plan, max_rows: int) -> list[int] | None:
        """How many guesses of each request give the most tokens per second, the likeliest first; or None."""
        num_rows = len(chances)
        ranked = sorted(((c, index) for index, of in enumerate(chances) for c in of), reverse=True)
        ranked = ranked[: max_rows - num_rows]
        best, best_gain = 0, LEAST_GAIN
        expected = float(num_rows)
        done = 0
        for num_guesses, cost in plan.costs:
            for chance, _ in ranked[done:num_guesses]:
                expected += chance
            done = min(num_guesses, len(ranked))
            if expected / num_rows / cost > best_gain:
                best, best_gain = done, expected / num_rows / cost
            if num_guesses >= len(ranked):
                break
        if best == 0:
            return None
        counts = [0] * num_rows
        for _, index in ranked[:best]:
            counts[index] += 1
        return counts
