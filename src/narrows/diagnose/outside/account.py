"""Where the time of one request of the workload goes, put together from what was measured part by part.

In: Seen, a Workload. Out: an Account: seconds by cause, each second once. Arithmetic on measured parts, as
for no server may a whole workload be run in a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from narrows.diagnose.outside.seen import LevelSeen, Line, Seen
from narrows.diagnose.workload import Workload


@dataclass(frozen=True, slots=True)
class Account:
    """Of a request of `prompt_tokens` and `output_tokens` among `streams`. `parts`: seconds by cause, which
    sum up to `e2e_s`.
    """

    prompt_tokens: int
    output_tokens: int
    streams: int
    ttft_s: float
    tpot_s: float
    e2e_s: float
    parts: Mapping[str, float]

    def share(self, cause: str) -> float:
        return self.parts[cause] / self.e2e_s if self.e2e_s > 0 else 0.0


def account(seen: Seen, workload: Workload) -> Account | None:
    """None where prompts or answers alone were not measured."""
    if seen.line is None or not seen.decode:
        return None
    prompt, output, streams = workload.prompt_tokens, workload.output_tokens, workload.streams
    line, gaps = seen.line, max(0, output - 1)
    parallel = seen.parallel
    beside = streams if parallel is None else min(streams, parallel)
    short_s = seen.decode[0].tpot_s.value
    alone_s = tpot_at(seen, prompt + output / 2)
    chunks_s = chunk_wait_s(seen)
    square_s = line.per_token_squared_s * prompt**2
    parts = {
        "overhead": max(0.0, line.overhead_s.value - chunks_s),
        "chunks": min(chunks_s, line.overhead_s.value),
        "prefill": max(0.0, _ttft_of(seen, line, prompt) - line.overhead_s.value - square_s),
        "attention": square_s,
        "decode": short_s * gaps * (1 - seen.decode[0].late_share),
        "irregular": short_s * gaps * seen.decode[0].late_share,
        "context": max(0.0, alone_s - short_s) * gaps,
        "sharing": max(0.0, _tpot_of(seen.levels, beside) - _tpot_of(seen.levels, 1)) * gaps,
        "meeting": _meeting_s(seen, prompt) * (beside - 1),
    }
    served_s = sum(parts.values())
    # Users who wait for their answers: of `streams`, `parallel` are served, the others stand in the queue.
    parts["queue"] = served_s * (streams / beside - 1)
    before_first = ("overhead", "chunks", "prefill", "attention", "queue")
    ttft_s = sum(parts[cause] for cause in before_first)
    e2e_s = sum(parts.values())
    tpot_s = (e2e_s - ttft_s) / gaps if gaps else 0.0
    return Account(prompt, output, streams, ttft_s, tpot_s, e2e_s, parts)


def _ttft_of(seen: Seen, line: Line, prompt: int) -> float:
    """Between the lengths measured; beyond the longest, that one and the line's slope."""
    longest = seen.lengths[-1].prompt_tokens
    if prompt > longest:
        return seen.lengths[-1].ttft_s.value + line.ttft_s(prompt) - line.ttft_s(longest)
    at = [0, *(one.prompt_tokens for one in seen.lengths)]
    return float(np.interp(prompt, at, [line.overhead_s.value, *(one.ttft_s.value for one in seen.lengths)]))


def tpot_at(seen: Seen, context: float) -> float:
    """A line through the answers after a short and after a long prompt; it never falls."""
    first, last = seen.decode[0], seen.decode[-1]
    if last.prompt_tokens <= first.prompt_tokens:
        return first.tpot_s.value
    slope = (last.tpot_s.value - first.tpot_s.value) / (last.prompt_tokens - first.prompt_tokens)
    return first.tpot_s.value + max(0.0, slope) * max(0.0, context - first.prompt_tokens)


def chunk_wait_s(seen: Seen) -> float:
    """How long a chunk's first token waits for the others in it."""
    per_chunk = max((one.tokens_per_chunk or 1.0 for one in seen.decode), default=1.0)
    return max(0.0, per_chunk - 1) * seen.decode[0].tpot_s.value


def _meeting_s(seen: Seen, prompt: int) -> float:
    """What a stream loses while the prompt of another one is read."""
    if seen.meeting is None:
        return 0.0
    return seen.meeting.lost_s * prompt / max(1, seen.meeting.prompt_tokens)


def _tpot_of(levels: Sequence[LevelSeen], streams: int) -> float:
    """Between the levels measured; beyond them the last one's. More streams make no step shorter: where they
    seem to, the machine was busier before.
    """
    known = [(level.concurrency, level.tpot_s.value) for level in levels if level.tpot_s is not None]
    if not known:
        return 0.0
    paces = np.minimum.accumulate([pace for _, pace in reversed(known)])[::-1]
    return float(np.interp(streams, [at for at, _ in known], paces))
