"""Token records as the two shapes of logprobs that the OpenAI API has.

In: TokenRecord of the engine. Out: typed dictionaries. JSON knows no infinity: what is impossible gets
OpenAI's -9999.
"""

from __future__ import annotations

from collections.abc import Sequence

from narrows.engine.client import TokenCandidate, TokenRecord
from narrows.serve.answers import ChatLogprob, ChatLogprobs, CompletionLogprobs, TopLogprob

IMPOSSIBLE = -9999.0


def chat_logprobs(tokens: Sequence[TokenRecord]) -> ChatLogprobs:
    return {"content": [_chat_token(token) for token in tokens], "refusal": None}


def completion_logprobs(tokens: Sequence[TokenRecord], *, offset: int) -> CompletionLogprobs:
    """`offset`: characters that stand before the text these tokens belong to (an echoed prompt)."""
    return {
        "tokens": [_spelled(token.data) for token in tokens],
        "token_logprobs": [None if token.logprob is None else _finite(token.logprob) for token in tokens],
        "top_logprobs": [_best(token) for token in tokens],
        "text_offset": [offset + token.offset for token in tokens],
    }


def joined(first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs:
    return {
        "tokens": first["tokens"] + second["tokens"],
        "token_logprobs": first["token_logprobs"] + second["token_logprobs"],
        "top_logprobs": first["top_logprobs"] + second["top_logprobs"],
        "text_offset": first["text_offset"] + second["text_offset"],
    }


def _chat_token(token: TokenRecord) -> ChatLogprob:
    return {
        "token": token.text,
        "logprob": IMPOSSIBLE if token.logprob is None else _finite(token.logprob),
        "bytes": list(token.data),
        "top_logprobs": [_candidate(candidate) for candidate in token.top],
    }


def _candidate(candidate: TokenCandidate) -> TopLogprob:
    return {"token": candidate.text, "logprob": _finite(candidate.logprob), "bytes": list(candidate.data)}


def _best(token: TokenRecord) -> dict[str, float] | None:
    """The n best and the token itself, by their spelling; null for the first token of a prompt."""
    if token.logprob is None:
        return None
    best = {_spelled(candidate.data): _finite(candidate.logprob) for candidate in reversed(token.top)}
    best[_spelled(token.data)] = _finite(token.logprob)
    return best


def _spelled(data: bytes) -> str:
    """A token's text; where it holds only part of a character, its bytes in OpenAI's spelling."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float:
    return max(logprob, IMPOSSIBLE)
