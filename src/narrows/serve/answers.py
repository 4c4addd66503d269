"""The response bodies of the OpenAI API, as typed dictionaries: mypy checks how they are filled, the API
document is made from them. `timing` (in `usage`, and in a stream's last chunk of each choice) is Narrows's
own addition.

Knows no engine; values only.
"""

from __future__ import annotations

from typing import Literal, NotRequired

# pydantic makes the API document from these, and on Python 3.11 it accepts only this TypedDict.
from typing_extensions import TypedDict

FinishReason = Literal["stop", "length"]


class TimingBody(TypedDict):
    """Milliseconds, by the engine's monotonic clock. Of several choices, the slowest of each."""

    queue_ms: float  # submitted until its first step began
    prefill_ms: float  # first step's beginning until the first token
    decode_ms: float  # first token until the last
    ttft_ms: float  # submitted until the first token, the queue included
    tpot_ms: float | None  # decode / (tokens - 1); null for fewer than two tokens


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    timing: TimingBody


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    content: list[ChatLogprob]
    refusal: None


class ChatMessage(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(TypedDict):
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]


class ChatChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(TypedDict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    timing: NotRequired[TimingBody]


class CompletionLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(TypedDict):
    """Also the chunk of a stream, whose `usage` is null or absent but in the last."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]
    timing: NotRequired[TimingBody]


class ModelCard(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_context: int


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelCard]


class Tokens(TypedDict):
    tokens: list[int]
    count: int
    max_context: int


class Text(TypedDict):
    prompt: str


class Health(TypedDict):
    status: Literal["ok"]
