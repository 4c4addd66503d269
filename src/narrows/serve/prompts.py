"""Texts to token ids, at a bounded price: a text far beyond the context is refused before all of it is
tokenized.

In: texts and conversations. Out: token ids, or InvalidRequest. Knows no JSON and no engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from narrows.errors import ContextTooLong, InvalidRequest
from narrows.serve.protocol import Message
from narrows.serve.service import TextCodec

PIECE_CHARS = 16384  # tokenized in about ten milliseconds


class FarTooLong(ContextTooLong):
    """Tokenizing ten megabytes would take seconds only to tell by how much they are too many."""

    def __init__(self, *, num_counted: int, max_context: int, param: str) -> None:
        InvalidRequest.__init__(
            self,
            f"the prompt has more than {num_counted} tokens but this model's context holds {max_context} "
            "(prompt and answer together); shorten the prompt",
            param=param,
        )
        self.num_prompt = num_counted
        self.max_context = max_context


def text_ids(codec: TextCodec, text: str, *, max_context: int) -> tuple[int, ...]:
    """All ids of a prompt; of one that is clearly too long not all are made."""
    _check_length(codec, text, max_context=max_context, param="prompt")
    return tuple(codec.encode(text))


def conversation_ids(codec: TextCodec, messages: Sequence[Message], *, max_context: int) -> tuple[int, ...]:
    """All ids of a conversation; of one that is clearly too long not all are made."""
    text = conversation_text(codec, messages)
    _check_length(codec, text, max_context=max_context, param="messages")
    return tuple(codec.encode(text, add_special=False))


def conversation_text(codec: TextCodec, messages: Sequence[Message]) -> str:
    """As the model was trained to read it. It spells out its own special tokens, so none are to be added."""
    return codec.render_chat([_turn(message) for message in messages])


def _check_length(codec: TextCodec, text: str, *, max_context: int, param: str) -> None:
    """Counts piece by piece. Cuts within words add tokens, but never as many as there were: hence twice."""
    if len(text) <= PIECE_CHARS:
        return
    num_counted = 0
    for begin in range(0, len(text), PIECE_CHARS):
        num_counted += len(codec.encode(text[begin : begin + PIECE_CHARS], add_special=False))
        if num_counted > 2 * max_context:
            raise FarTooLong(num_counted=max_context, max_context=max_context, param=param)


def _turn(message: Message) -> dict[str, str]:
    # "developer" is OpenAI's newer word for "system"; templates of open models know only the older one.
    role = "system" if message.role == "developer" else message.role
    turn = {"role": role, "content": message.text}
    return turn if message.name is None else {**turn, "name": message.name}
