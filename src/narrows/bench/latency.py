"""The figures of one request, by the definitions of docs/metrics.md. Exact arithmetic on a Record's times.

In: a Record. Out: seconds. ITL is given only where it is known: where a chunk holds several tokens and the
server does not stamp them, the gaps that touch it are counted as unknown, never divided.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from narrows.bench.record import Piece, Record


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds; None where a request has no such figure. `itl_s` and `num_unknown_itl` add up to tokens - 1.

    `gap_s`: between events that carried text, always known, and not per token.
    `num_tokens`: by usage; where there is none, by chunks, and `is_counted_by_chunks` is set.
    """

    ttft_s: float
    answer_s: float | None
    tpot_s: float | None
    e2e_s: float
    itl_s: tuple[float, ...]
    num_unknown_itl: int
    gap_s: tuple[float, ...]
    num_tokens: int
    is_counted_by_chunks: bool
    late_s: float  # sent after the intended time and after the connection was open: this client's own doing


def latency_of(record: Record) -> Latency | None:
    """None where no token came. Of a failed request the times until it failed."""
    if not record.pieces:
        return None
    first_s, last_s = record.pieces[0].at_s, record.pieces[-1].at_s
    # The model's end token carries no text: where a finish reason comes after the last text, it stands for
    # it.
    end_s = max(last_s, record.finish_s or last_s)
    tokens, by_chunks = _count(record)
    e2e_s, ttft_s = end_s - record.intended_s, first_s - record.intended_s
    itl_s, num_unknown = _token_gaps(record, tokens, by_chunks)
    return Latency(
        ttft_s=ttft_s,
        answer_s=None if record.answer_s is None else record.answer_s - record.intended_s,
        tpot_s=(e2e_s - ttft_s) / (tokens - 1) if tokens > 1 else None,
        e2e_s=e2e_s,
        itl_s=itl_s,
        num_unknown_itl=num_unknown,
        gap_s=tuple(later.at_s - earlier.at_s for earlier, later in pairwise(record.pieces)),
        num_tokens=tokens,
        is_counted_by_chunks=by_chunks,
        late_s=late_s(record) or 0.0,
    )


def late_s(record: Record) -> float | None:
    """How late this client sent a request that it could have sent; None where it was not sent."""
    if record.sent_s is None:
        return None
    return max(0.0, record.sent_s - max(record.intended_s, record.ready_s or record.intended_s))


def _count(record: Record) -> tuple[int, bool]:
    if record.num_output is not None and record.num_output > 0:
        return record.num_output, False
    counts = [piece.tokens for piece in record.pieces]
    if all(count is not None for count in counts):
        return max(1, sum(count or 0 for count in counts)), False
    return len(record.pieces), True


def _token_gaps(record: Record, tokens: int, by_chunks: bool) -> tuple[tuple[float, ...], int]:
    pieces = record.pieces
    if tokens <= 1:
        return (), 0
    if stamps := _stamps(pieces, tokens):
        return tuple(later - earlier for earlier, later in pairwise(stamps)), 0
    counts = _tokens_per_piece(record, tokens, by_chunks)
    if counts is None:
        return (), tokens - 1
    known = [
        later.at_s - earlier.at_s
        for (earlier, later), count in zip(pairwise(pieces), counts[1:], strict=True)
        if count == 1
    ]
    return tuple(known), tokens - 1 - len(known)


def _stamps(pieces: tuple[Piece, ...], tokens: int) -> list[float] | None:
    """The server's stamps, where there is one for every token of a chunk, but for an end token without
    text.
    """
    stamps: list[float] = []
    for piece in pieces:
        if piece.token_s is None:
            return None
        stamps += piece.token_s
    return stamps if tokens - 1 <= len(stamps) <= tokens else None


def _tokens_per_piece(record: Record, tokens: int, by_chunks: bool) -> list[int] | None:
    """Tokens of each chunk: as the server says, or one each where the sum leaves no other way. None: unknown.

    One token more than they sum up to at a "stop" is the model's end token, which has no text. Without usage
    nothing says that a chunk is a token.
    """
    if by_chunks:
        return None
    said = [piece.tokens for piece in record.pieces]
    is_said = all(count is not None for count in said)
    counts = [count or 0 for count in said] if is_said else [1] * len(said)
    end_tokens = (0, 1) if record.finish_reason == "stop" else (0,)
    return counts if tokens - sum(counts) in end_tokens else None
