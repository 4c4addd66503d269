"""Engines as processes that answer one JSON command a line, so that measurements can be interleaved fairly.

Knows how to start a worker, ask it and notice that it failed; knows nothing of tables or statistics.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

SETTLE_S = 0.2  # idle engines' threads may spin for a while after their last answer
START_TIMEOUT_S = 600.0
ANSWER_TIMEOUT_S = 900.0
ERROR_CHARS = 400


class EngineError(Exception):
    """This engine cannot answer; the text goes into the table."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One engine in one setting; `command` starts its worker."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def last_words(text: str) -> str:
    """The end of what a failed process said: its last lines, shortened, without this machine's folders."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = re.sub(r"(?:/[\w.+-]+)+/([\w.+-]+)", r"\1", " | ".join(lines[-2:]))
    return said[-ERROR_CHARS:] or "it said nothing"


class Worker:
    """A running worker; use as a context manager. Raises EngineError when the engine fails."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 closed with the worker
        try:
            self.process = subprocess.Popen(
                spec.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env={**os.environ, **spec.environment},
            )
        except OSError as error:
            self._log.close()
            raise EngineError(f"cannot start: {error}") from error
        try:
            self.hello = self._read(START_TIMEOUT_S)
        except EngineError:
            self.close()
            raise

    def _read(self, timeout_s: float) -> dict[str, float]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        if not ready:
            self.process.kill()
            raise EngineError(f"no answer within {timeout_s:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self._log.seek(0)
            raise EngineError(f"ended with {code}: {last_words(self._log.read())}")
        answer: dict[str, float] = json.loads(line)
        if "error" in answer:
            raise EngineError(last_words(str(answer["error"])))
        return answer

    def ask(self, op: str, **fields: int) -> dict[str, float]:
        assert self.process.stdin is not None
        time.sleep(SETTLE_S)
        with contextlib.suppress(OSError):  # it has ended: reading tells how
            self.process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
            self.process.stdin.flush()
        return self._read(ANSWER_TIMEOUT_S)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):  # the worker may be gone already
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def cold_start_s(spec: WorkerSpec, **prompt: int) -> float:
    """Process start to the first token of a 32-token prompt."""
    started = time.perf_counter()
    with Worker(spec) as worker:
        worker.ask("generate", streams=1, prompt=32, tokens=1, **prompt)
        return time.perf_counter() - started - SETTLE_S


def peak_memory_bytes(spec: WorkerSpec, **prompt: int) -> float:
    """Peak resident memory of a fresh process after a 512-token prefill and 32 tokens of decode."""
    with Worker(spec) as worker:
        worker.ask("generate", streams=1, prompt=512, tokens=33, **prompt)
        return worker.ask("memory")["peak_bytes"]
