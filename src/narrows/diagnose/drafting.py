"""What speculation would bring on a text of the model's own: guesses are compared with what was written.

In: tokens that the model wrote without guessing, and what a step of more rows would cost. Out: Drafting.
Walks through the text as the engine would: guess, verify as many as pay, go on behind the first difference.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from narrows.diagnose.predict import Predictor
from narrows.diagnose.setup import Setup
from narrows.diagnose.trace import GREEDY, TimedRunner
from narrows.engine.config import EngineConfig
from narrows.engine.speculation import LEAST_GAIN
from narrows.engine.step import SequenceStep, Step
from narrows.runners.drafting import Chances, Drafter

MEMORY: Final = 0.99  # of chances, as the engine keeps them
ROWS: Final = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, slots=True)
class Drafting:
    """`gain`: tokens per second with guesses over without."""

    gain: float
    tokens_per_step: float
    tokens: int
    text: str  # what was written, in words


def write(runner: TimedRunner, prompt: Sequence[int], num_tokens: int, *, most_s: float) -> list[int]:
    """Greedy tokens after a prompt, one a step, until there are enough or time is up."""
    info = runner.info
    blocks = tuple(range(min(info.num_blocks, -(-info.max_context // info.block_size))))
    room = min(info.max_context, len(blocks) * info.block_size) - len(prompt)
    written: list[int] = []
    pending = tuple(prompt[: info.max_step_tokens])
    start, began_s = 0, time.perf_counter()
    runner.add(0, GREEDY, pending)
    try:
        while len(written) < min(num_tokens, room):
            result = runner.run(Step((SequenceStep(0, pending, start, blocks, True),)))
            start += len(pending)
            token_id = result.sequences[0].drawn[0].token_id
            if token_id < 0:  # not finite: noise for weights; a text is not to be had
                break
            written.append(token_id)
            pending = (token_id,)
            if time.perf_counter() - began_s > most_s:
                break
    finally:
        runner.remove(0)
    return written


def step_costs(predictor: Predictor, setup: Setup, host_s: float) -> dict[int, float]:
    """Seconds of a decode step by guesses of each stream."""
    return {rows - 1: predictor.total(replace(setup, guesses=rows - 1), "decode") + host_s for rows in ROWS}


def draft(prompt: Sequence[int], written: Sequence[int], costs: dict[int, float], text: str) -> Drafting:
    """Replays a text; `costs[k]`: seconds of a step with k guesses."""
    drafter = Drafter(Chances(MEMORY), None)
    drafter.read(list(prompt))
    most = min(EngineConfig().max_draft, max(costs))
    spent_s, steps, at = 0.0, 0, 0
    drawn: list[int] = []
    while at < len(written):
        drafter.follow(drawn, most)
        guess, chances = drafter.draft(min(most, len(written) - at - 1))
        count = best_count(chances, costs)
        right = 0
        while right < count and guess[right] == written[at + right]:
            right += 1
        drawn = list(written[at : at + right + 1])
        at += len(drawn)
        steps += 1
        spent_s += costs[_known(count, costs)]
    plain_s = len(written) * costs[0]
    gain = plain_s / spent_s if spent_s else 1.0
    return Drafting(gain, len(written) / max(1, steps), len(written), text)


def best_count(chances: Sequence[float], costs: dict[int, float]) -> int:
    """How many guesses give the most tokens per second, none where that is not worth it."""
    best, best_gain = 0, LEAST_GAIN
    for count in range(1, len(chances) + 1):
        gain = (1 + sum(chances[:count])) * costs[0] / costs[_known(count, costs)]
        if gain > best_gain:
            best, best_gain = count, gain
    return best


def _known(count: int, costs: dict[int, float]) -> int:
    """The least number of guesses whose cost is known and that is not below `count`."""
    return min((known for known in costs if known >= count), default=max(costs))
