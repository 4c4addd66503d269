"""From what a user wrote to a running engine: folder, runner, tokenizer, worker.

In: a model (path, hub id, or None for the embedded one), the runner's options and the engine's settings. Out:
the client, the tokenizer, and how long loading took. The only place that joins these parts; the native core
is imported when called.
"""

from __future__ import annotations

import threading
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
    from narrows.models.encoder import Encoder
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
    from narrows.models.compiled_encoder import open_encoder
    from narrows.models.resolve import resolve_model
    from narrows.models.tokenizer import Tokenizer
    from narrows.runners.cpu import CpuRunner
    from narrows.runners.options import CpuOptions

    began_s = perf_counter()
    folder = resolve_model(model, offline=offline)
    options = options or CpuOptions()
    # Parsing a vocabulary of 150,000 takes a third of a second and holds the GIL; reading the weights takes
    # as long and does not need it. So a tokenizer that is not compiled yet waits until the reading has begun.
    is_reading = threading.Event()

    def advance(num_done: int, num_total: int) -> None:
        is_reading.set()
        if progress is not None:
            progress(num_done, num_total)

    def read_encoder() -> Encoder:
        return open_encoder(folder, use_cache=options.cache, before_parsing=is_reading.wait)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="narrows-tokenizer") as beside:
        encoder = beside.submit(read_encoder)
        try:
            runner = CpuRunner.from_folder(folder, options, progress=advance)
        finally:
            is_reading.set()
        times_s = dict(runner.load_times)
        try:
            waited_s = perf_counter()
            tokenizer = Tokenizer.from_folder(folder, vocab=runner.info.vocab_size, encoder=encoder.result())
            times_s["tokenizer"] = perf_counter() - waited_s  # what was left of it
            engine = Engine(runner, tokenizer, eos_ids=tokenizer.eos_ids, config=config or EngineConfig())
        except BaseException:
            runner.close()
            raise
    info = LoadInfo(folder.resolve().name, folder, perf_counter() - began_s, times_s)
    return LoadedEngine(EngineWorker(engine), tokenizer, info)
