"""Engines as processes that answer one JSON command a line, so that measurements can be interleaved fairly.

Knows how to start a worker, ask it, and time a cold start; knows nothing of tables or statistics.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One engine in one setting; `command` starts its worker."""

    name: str
    command: tuple[str, ...]
    format: str  # of the weights, for the table


def narrows_spec(folder: Path, weights: str, *, threads: int, context: int, streams: int) -> WorkerSpec:
    command = (sys.executable, str(HERE / "narrows_worker.py"), str(folder), "--weights", weights)
    sizes = ("--threads", str(threads), "--context", str(context), "--streams", str(streams))
    return WorkerSpec(f"narrows {weights}", command + sizes, weights)


def llamacpp_spec(
    folder: Path, kind: str, *, flash: bool, threads: int, context: int, streams: int
) -> WorkerSpec:
    python = HERE / ".venvs/llamacpp/bin/python"
    script = (str(python), str(HERE / "peers/llamacpp_worker.py"), str(folder / f"{kind}.gguf"))
    sizes = ("--threads", str(threads), "--context", str(context), "--streams", str(streams))
    return WorkerSpec(
        f"llama.cpp {kind}{' fa' if flash else ''}", script + sizes + ("--flash", str(int(flash))), kind
    )


class Worker:
    """A running worker; use as a context manager."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            spec.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        self.hello = self._read()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.spec.name} ended with {self.process.wait()}: {' '.join(self.spec.command)}"
            )
        answer: dict[str, float] = json.loads(line)
        return answer

    def ask(self, op: str, **fields: int) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def cold_start_s(spec: WorkerSpec) -> float:
    """Process start to the first token of a 32-token prompt, page cache warm."""
    started = time.perf_counter()
    with Worker(spec) as worker:
        worker.ask("generate", streams=1, prompt=32, tokens=1)
        return time.perf_counter() - started


def peak_memory_bytes(spec: WorkerSpec) -> float:
    """Peak resident memory of a fresh process after a 512-token prefill and 32 tokens of decode."""
    with Worker(spec) as worker:
        worker.ask("generate", streams=1, prompt=512, tokens=33)
        return worker.ask("memory")["peak_bytes"]
