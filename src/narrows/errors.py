"""Every exception Narrows raises on purpose. Each says what was wrong and what to do about it.

NarrowsError
├── CallerError              the caller is wrong; the message names the remedy
│   ├── InvalidRequest       a request field or prompt (HTTP 400); `param` names the field
│   │   └── ContextTooLong   more tokens than the context holds; carries both numbers
│   ├── InvalidConfig        an option or setting
│   └── InvalidModel         a model folder, its config, tensors or tokenizer
│       └── UnsupportedModel an architecture or feature Narrows does not run
├── ShortError               the machine is short of something; the message says how much
│   ├── OutOfMemory          memory or KV blocks
│   ├── Overloaded           the waiting queue is full (HTTP 429); `retry_after_s` says when to come back
│   └── UnsupportedHardware  an instruction set or device this machine lacks
├── RequestAborted           the request was cancelled or the engine is shutting down (HTTP 503)
└── InternalError            we are wrong: "this is a bug: ..."
"""

from __future__ import annotations


class NarrowsError(Exception):
    """Base of all errors raised on purpose."""


class CallerError(NarrowsError):
    """The caller is wrong."""


class InvalidRequest(CallerError):
    """A field of a request is wrong; `param` is its name, or None for the body as a whole."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextTooLong(InvalidRequest):
    """The prompt plus the wanted output does not fit into the context."""

    def __init__(self, *, num_prompt: int, max_context: int, param: str = "messages") -> None:
        super().__init__(
            f"the prompt has {num_prompt} tokens but this model's context holds {max_context} "
            "(prompt and answer together); shorten the prompt",
            param=param,
        )
        self.num_prompt = num_prompt
        self.max_context = max_context


class InvalidConfig(CallerError):
    """An option or setting is wrong."""


class InvalidModel(CallerError):
    """A model folder, its config, tensors or tokenizer is missing, damaged or contradictory."""


class UnsupportedModel(InvalidModel):
    """An architecture or feature that Narrows does not run."""


class ShortError(NarrowsError):
    """The machine is short of something."""


class OutOfMemory(ShortError):
    """Not enough memory or KV blocks."""


class Overloaded(ShortError):
    """The waiting queue is full."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnsupportedHardware(ShortError):
    """This machine lacks an instruction set or device."""


class RequestAborted(NarrowsError):
    """The request was cancelled, or the engine stopped before it was finished."""


class InternalError(NarrowsError):
    """We are wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(f"this is a bug in Narrows: {message}")
