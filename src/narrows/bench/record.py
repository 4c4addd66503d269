"""What is known of one request afterwards. Plain data: filled by the client, read by the metrics.

Times are seconds since the phase began, by the client's one clock. Nothing here is computed from anything
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

ErrorKind = Literal[
    "refused",  # no connection
    "closed",  # the connection ended before the answer did
    "timeout_first",  # no token within --timeout
    "timeout",  # tokens, but no end within --timeout
    "http",  # a status other than 200; `status` says which
    "not_a_stream",  # 200, but no server-sent events
    "malformed",  # events that are no JSON, or no events at all
    "error_event",  # an error sent as an event
    "no_tokens",  # an orderly end without a single token
    "client",  # this machine could not send it (descriptors, ports)
    "interrupted",  # Ctrl-C: neither a success nor the server's fault
]
ERROR_KINDS: tuple[ErrorKind, ...] = ErrorKind.__args__  # type: ignore[attr-defined]
CountedBy = Literal["usage", "chunks"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One event that carried text. `tokens`: how many, where the server says so. `token_s`: by the server's
    clock, seconds since it took the request, one per token, where it stamps them.
    """

    at_s: float
    tokens: int | None = None
    token_s: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One request, from its intended time to its end."""

    index: int
    intended_s: float
    connect_s: float | None = None  # how long opening the connection took; it was opened ahead of time
    ready_s: float | None = None  # when the connection was open
    sent_s: float | None = None  # when the request's last byte was handed to the system
    pieces: tuple[Piece, ...] = ()
    answer_s: float | None = None  # first text that is no reasoning, where reasoning came before it
    finish_s: float | None = None  # the event with the finish reason
    end_s: float | None = None  # the connection had nothing more to say
    finish_reason: str | None = None
    num_prompt: int | None = None
    num_output: int | None = None  # by the server's usage
    asked_prompt: int | None = None  # what the workload wanted
    asked_output: int | None = None
    has_done: bool = False  # the stream ended with [DONE]
    error: ErrorKind | None = None
    status: int | None = None  # of HTTP
    detail: str = ""
    server_ms: Mapping[str, float] | None = None  # the server's own figures: ttft, tpot
    retry_after_s: float | None = None  # of a refusal that says when to come back

    @property
    def is_ok(self) -> bool:
        return self.error is None


def to_json(record: Record) -> dict[str, Any]:
    """Without fields that hold their default. Pieces become three lists, microseconds as integers."""
    body = {
        field.name: getattr(record, field.name)
        for field in fields(record)
        if field.name != "pieces" and getattr(record, field.name) != field.default
    }
    body |= {name: round(value, 6) for name, value in body.items() if isinstance(value, float)}
    if record.pieces:
        body["pieces_us"] = [round(piece.at_s * 1e6) for piece in record.pieces]
        if any(piece.tokens is not None for piece in record.pieces):
            body["pieces_tokens"] = [piece.tokens for piece in record.pieces]
        if any(piece.token_s is not None for piece in record.pieces):
            body["pieces_token_s"] = [asdict(piece)["token_s"] for piece in record.pieces]
    return body


def from_json(body: Mapping[str, Any]) -> Record:
    """The inverse. Raises KeyError, TypeError or ValueError where `body` was not written by `to_json`."""
    rest = {name: value for name, value in body.items() if not name.startswith("pieces_")}
    times = body.get("pieces_us", [])
    counts = body.get("pieces_tokens", [None] * len(times))
    stamps = body.get("pieces_token_s", [None] * len(times))
    pieces = tuple(
        Piece(at_us / 1e6, count, None if stamp is None else tuple(stamp))
        for at_us, count, stamp in zip(times, counts, stamps, strict=True)
    )
    return Record(pieces=pieces, **rest)
