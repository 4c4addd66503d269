"""What is asked: prompts and lengths, in order, as plain data.

In: prompt files, traces, or wanted lengths. Out: Planned requests. Times stand in them only where they come
from a trace; otherwise arrivals.py gives them. Knows no server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from narrows.bench.prompts import Prompt
from narrows.bench.synthetic import Lengths, WordRate, text_of_blocks, text_with_prefix
from narrows.bench.traces import TraceRow


@dataclass(frozen=True, slots=True)
class Planned:
    """One request before it is sent. `at_s`: when, from the phase's start; None in a closed loop."""

    index: int
    prompt: Prompt
    max_tokens: int | None
    num_prompt: int | None = None  # tokens the prompt was meant to have, where it was made to a length
    at_s: float | None = None


# index of a request → the request; the same index gives the same one.
Workload = Callable[[int], Planned]


def from_prompts(
    rows: Sequence[tuple[Prompt, int | None]], *, output: Lengths | None, seed: int, order: Sequence[int]
) -> Workload:
    """The prompts in `order`, over and over. An answer's length: the line's own, else `output`, else the
    model's.
    """

    def planned(index: int) -> Planned:
        prompt, num_output = rows[order[index % len(order)]]
        if num_output is None and output is not None:
            num_output = output.draw(1, _seed_of(seed, index))[0]
        return Planned(index, prompt, num_output)

    return planned


@dataclass(frozen=True, slots=True)
class SyntheticPlan:
    """Lengths of synthetic prompts. `num_groups`: how many different prefixes of `prefix_tokens` there
    are.
    """

    prompt: Lengths
    output: Lengths
    prefix_tokens: int = 0
    num_groups: int = 1


def synthetic(plan: SyntheticPlan, *, rate: WordRate, seed: int) -> Workload:
    def planned(index: int) -> Planned:
        mixed = _seed_of(seed, index)
        num_prompt = plan.prompt.draw(1, mixed)[0]
        num_output = plan.output.draw(1, mixed + 1)[0]
        text = text_with_prefix(num_prompt, plan.prefix_tokens, index % plan.num_groups, rate, (seed, index))
        return Planned(index, Prompt.of_text(text), num_output, num_prompt)

    return planned


def from_trace(rows: Sequence[TraceRow], *, rate: WordRate, seed: int) -> list[Planned]:
    """One request for each row, at its time."""
    found = []
    for index, row in enumerate(rows):
        text = text_of_blocks(row.num_prompt, row.block_ids, row.block_tokens, rate, (seed, index))
        found.append(Planned(index, Prompt.of_text(text), row.num_output, row.num_prompt, row.at_s))
    return found


def at_times(workload: Workload, times_s: Sequence[float], *, first_index: int = 0) -> list[Planned]:
    """Requests first_index, first_index + 1, ... at these times."""
    return [replace(workload(first_index + i), at_s=time_s) for i, time_s in enumerate(times_s)]


def _seed_of(seed: int, index: int) -> int:
    """Apart for every request, so that a request does not depend on how many there are."""
    return seed * 1_000_003 + index * 2
