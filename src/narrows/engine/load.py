"""From what a user wrote to a running engine: folder, runner, tokenizer, worker.

In: a model (path, hub id, or None for the embedded one), the runner's options and the engine's settings. Out:
the client, the tokenizer, and how long loading took. The only place that joins these parts; the native core
is imported when called.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from narrows.engine.client import EngineClient
from narrows.engine.config import EngineConfig
from narrows.engine.engine import Engine
from narrows.engine.worker import EngineWorker

if TYPE_CHECKING:
    from narrows.models.tokenizer import Tokenizer
    from narrows.runners.options import CpuOptions

Progress = Callable[[int, int], None]  # (tensors packed, tensors in all)


@dataclass(frozen=True, slots=True)
class LoadInfo:
    """What was loaded, and how long it took."""

    name: str  # the folder's
    folder: Path
    load_s: float
    times_s: dict[str, float]  # of the runner's phases


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """`client.close()` ends the engine and frees the model."""

    client: EngineClient
    tokenizer: Tokenizer
    info: LoadInfo


def load_engine(
    model: str | Path | None = None,
    *,
    options: CpuOptions | None = None,
    config: EngineConfig | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> LoadedEngine:
    """Opens a model and starts its engine; raises InvalidModel, OutOfMemory or UnsupportedHardware."""
    from narrows.models.resolve import resolve_model
    from narrows.models.tokenizer import Tokenizer, read_fast

    began_s = perf_counter()
    folder = resolve_model(model, offline=offline)
    # A vocabulary of 150,000 takes longer to parse than packed weights to map: both at once, and beside the
    # imports of the runner.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="narrows-tokenizer") as beside:
        fast = beside.submit(read_fast, folder)
        from narrows.runners.cpu import CpuRunner

        runner = CpuRunner.from_folder(folder, options, progress=progress)
        times_s = dict(runner.load_times)
        try:
            waited_s = perf_counter()
            tokenizer = Tokenizer.from_folder(folder, vocab=runner.info.vocab_size, fast=fast.result())
            times_s["tokenizer"] = perf_counter() - waited_s  # only what was left of it
            engine = Engine(runner, tokenizer, eos_ids=tokenizer.eos_ids, config=config or EngineConfig())
        except BaseException:
            runner.close()
            raise
    info = LoadInfo(folder.resolve().name, folder, perf_counter() - began_s, times_s)
    return LoadedEngine(EngineWorker(engine), tokenizer, info)
