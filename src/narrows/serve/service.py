"""What every route shares: the engine, the tokenizer, the settings, the metrics, and whether the server is
draining.

In: parts made by run.py or a test. Out: nothing; routes read it. Knows no route and no body format.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from narrows.engine.client import EngineClient
from narrows.serve.config import ServeConfig
from narrows.serve.metrics import Metrics
from narrows.serve.problems import Problem, ProblemError

Result = TypeVar("Result")
INLINE_BYTES = 8192  # parsing and tokenizing so much takes less than a millisecond: not worth a thread


class TextCodec(Protocol):
    """The tokenizer as the server needs it; raises InvalidRequest for what it cannot take."""

    def encode(self, text: str, *, add_special: bool = True) -> list[int]: ...
    def decode(self, token_ids: Sequence[int]) -> str: ...
    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The conversation as the model was trained to read it, special tokens spelled out."""


@dataclass(slots=True)
class Service:
    """`is_draining` and `num_under_way` are changed in the event loop only."""

    config: ServeConfig
    engine: EngineClient
    codec: TextCodec
    metrics: Metrics
    is_draining: bool = False
    num_under_way: int = 0  # requests being answered, /health and /metrics not counted
    created_s: int = field(default_factory=lambda: int(time.time()))
    # Two threads: a third long prompt waits, but the event loop and short prompts do not.
    _workers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "narrows-prompt"))

    async def off_loop(self, work: Callable[[], Result], *, num_bytes: int) -> Result:
        """Runs `work` in a thread where its input is long enough to hold up other streams."""
        if num_bytes <= INLINE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    def check_model(self, name: str | None) -> str:
        """The name to answer with; 404 for a model that is not served here."""
        names = self.config.model_names
        if name is None or name in names:
            return name or names[0]
        shown = name if len(name) <= 80 else name[:80] + "..."
        message = f"the model '{shown}' is not served here; this server has: {', '.join(names)}"
        raise ProblemError(Problem(404, message, param="model", code="model_not_found"))

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)
