"""Settings of an engine, as one frozen value checked when it is made.

Knows nothing of models: what the runner dictates (block size, context) comes from RunnerInfo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from narrows.errors import InvalidConfig

SPECULATION_KINDS = ("auto", "on", "off")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    max_running: int = 64  # requests in one step
    max_waiting: int = 256  # requests queued beyond those
    max_context: int | None = None  # None: what the runner allows
    # Prompt tokens in a step that also carries decode rows. On a CPU a step's time grows with its rows, so
    # this bounds how long a running stream waits for its next token while another prompt is read.
    prefill_chunk: int = 128
    # on: tokens guessed from what stood before are verified beside the next one where that is faster. auto:
    # the same, but only where a step takes a millisecond or more. The answer is the same (==) in all three.
    speculation: Literal["auto", "on", "off"] = "auto"
    max_draft: int = 15  # guesses per request and step; a step of 16 rows still streams its weights
    # Outputs of finished requests are a source of guesses for others. What others wrote then shows in the
    # timing of an answer, though never in its text: only where all users may know of each other.
    share_drafts: bool = False

    def __post_init__(self) -> None:
        if self.speculation not in SPECULATION_KINDS:
            raise InvalidConfig(
                f"speculation is {self.speculation!r}; it must be one of {', '.join(SPECULATION_KINDS)}"
            )
        if self.share_drafts and self.speculation == "off":
            raise InvalidConfig(
                "share_drafts has no meaning where speculation is 'off'; leave one of them out"
            )
        for name, least in (("max_running", 1), ("max_waiting", 0), ("prefill_chunk", 1), ("max_draft", 1)):
            if getattr(self, name) < least:
                raise InvalidConfig(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.max_context is not None and self.max_context < 2:
            raise InvalidConfig(f"max_context is {self.max_context}; it must be at least 2, or None")
