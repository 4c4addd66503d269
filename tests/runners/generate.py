"""Drives a runner by hand, as the engine would, for one request at a time."""

from __future__ import annotations

from narrows.engine.step import Runner, SamplingParams, SequenceStep, Step


def greedy(runner: Runner, prompt_ids: list[int], num_tokens: int, *, chunk: int = 512) -> list[int]:
    """The prompt in chunks, then one token a step."""
    runner.add(1, SamplingParams(temperature=0.0), tuple(prompt_ids))
    total = len(prompt_ids) + num_tokens
    blocks = tuple(range(-(-total // runner.info.block_size)))
    ids, start = list(prompt_ids), 0
    while len(ids) < total:
        part = tuple(ids[start : start + chunk])
        is_last = start + len(part) == len(ids)
        result = runner.run(Step((SequenceStep(1, part, start, blocks, is_last),)))
        start += len(part)
        if is_last:
            ids += [sampled.token_id for sampled in result.sequences[0].drawn]
    runner.remove(1)
    return ids[len(prompt_ids) :]
