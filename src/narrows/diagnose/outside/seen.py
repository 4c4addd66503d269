"""What was seen of a server from outside, part by part, as plain data. Seconds and tokens; None: not
measured.

Filled by the parts of the experiment (alone.py, crowd.py, meeting.py), read by the verdicts, the texts and
the plots. No conclusions are drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Interval:
    """A median or a fitted value, its 95 % interval, and of how many requests."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class LengthSeen:
    """TTFT of prompts of one length, each sent alone. `prompt_tokens` as the server counts them."""

    prompt_tokens: int
    ttft_s: Interval
    all_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """TTFT = overhead + per_token x n + per_token_squared x n^2; the last is 0 unless its interval excludes
    0.

    `longest`: tokens of the longest prompt that it was fitted to. `bend`: share of that prompt's TTFT which
    is the square's; None below four lengths.
    """

    overhead_s: Interval
    per_token_s: Interval
    per_token_squared_s: float
    longest: int
    bend: Interval | None

    def ttft_s(self, prompt_tokens: float) -> float:
        n = prompt_tokens
        return self.overhead_s.value + self.per_token_s.value * n + self.per_token_squared_s * n * n


@dataclass(frozen=True, slots=True)
class PrefixSeen:
    """A prompt never sent before, and prompts that begin with the same `prompt_tokens`, each sent alone."""

    prompt_tokens: int
    fresh_s: Interval
    again_s: Interval


@dataclass(frozen=True, slots=True)
class DecodeSeen:
    """Answers sent alone. `gap_s`: between chunks, the median. `late_share`: of the answering time, spent in
    gaps of over five times the median, beyond the median. `tokens_per_chunk` is None where the server does
    not count its tokens; `sizes_vary`: some chunks hold more tokens than others, None where it does not say.
    """

    prompt_tokens: int
    tpot_s: Interval
    gap_s: float
    longest_gap_s: float
    num_gaps: int
    num_late: int
    late_share: float
    tokens_per_chunk: float | None
    sizes_vary: bool | None
    bunched_share: float  # of the chunks, that came together with the one before


@dataclass(frozen=True, slots=True)
class LevelSeen:
    """`concurrency` requests sent at one moment. `decoding`: most answers that were under way at one time.

    `tokens_per_s`: of all, from sending until the last end. `refused`: with 429 or 503; of them `retry_after`
    said when to come back, in seconds.
    """

    concurrency: int
    rounds: int
    ok: int
    refused: int
    failed: int
    retry_after_s: tuple[float, ...]
    tokens_per_s: float
    ttft_s: Interval | None
    ttft_max_s: float
    tpot_s: Interval | None
    e2e_s: float  # the median
    decoding: int


@dataclass(frozen=True, slots=True)
class MeetingSeen:
    """A long prompt sent while an answer streams, several times over. `alone_s`: its TTFT when sent alone;
    `ttft_s`: when it met the stream. `gap_s`: of the stream before; `longest_gap_s`: while the prompt was
    read, the median over the tries; `lost_s`: what the stream fell behind by. `trace`: of one try, each
    chunk's (time after the prompt was sent, gap before it).
    """

    prompt_tokens: int
    tries: int
    alone_s: float
    ttft_s: float
    gap_s: float
    longest_gap_s: Interval
    lost_s: float
    trace: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class CancelSeen:
    """`cut` streams were closed by the client; straight afterwards one request was sent. Its time from
    sending to its last token, beside what it takes alone and what it would take if the server had not
    stopped.

    `tokens_after`: generated after the cut for nobody, by the server's own counter; None where it has none.
    """

    cut: int
    e2e_s: float
    alone_s: float
    ignored_s: float
    tokens_after: int | None


@dataclass(frozen=True, slots=True)
class Failures:
    """Of all requests. `kinds`: by sort, HTTP errors by status; `examples`: the first message of each."""

    sent: int = 0
    ok: int = 0
    refused: int = 0
    empty: int = 0  # ended in good order, without a token
    kinds: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(self.kinds.values())

    @property
    def judged(self) -> int:
        """Without those that we cut ourselves."""
        return self.ok + self.refused + self.empty + self.failed


@dataclass(frozen=True, slots=True)
class Seen:
    """`unmeasured`: part of the experiment -> why not."""

    lengths: tuple[LengthSeen, ...] = ()
    line: Line | None = None
    prefix: PrefixSeen | None = None
    decode: tuple[DecodeSeen, ...] = ()  # after a short prompt, and after a long one
    levels: tuple[LevelSeen, ...] = ()
    meeting: MeetingSeen | None = None
    cancel: CancelSeen | None = None
    failures: Failures = field(default_factory=Failures)
    connect_s: float | None = None  # opening a connection, the median
    unmeasured: Mapping[str, str] = field(default_factory=dict)

    @property
    def parallel(self) -> int | None:
        """Answers that the server has under way at most; None: as many as were asked for."""
        return parallel_of(self.levels)


def parallel_of(levels: tuple[LevelSeen, ...]) -> int | None:
    """Fewer answers under way than asked for, although none was refused: the others waited.

    A server that reads one prompt after another starts its answers late too: only waits beyond twice that are
    a queue's.
    """
    if not levels or not levels[0].ttft_s:
        return None
    alone_s = levels[0].ttft_s.value
    for level in levels:
        is_whole = level.ok == level.concurrency * level.rounds
        waits = level.ttft_max_s > 2 * level.concurrency * alone_s
        if is_whole and level.decoding < level.concurrency and waits:
            return level.decoding
    return None
