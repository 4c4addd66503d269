"""How long a start takes and where: opening, converting and packing, mapping, building, first touch.

In: a model folder and the runner's options. Out: the runner, its tokenizer and LoadingTimes. A start that
finds packed weights on disk skips what the first one did; both are told apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from narrows.diagnose.process import read_process
from narrows.engine.step import SamplingParams, SequenceStep, Step
from narrows.errors import InvalidModel
from narrows.models.compiled_encoder import open_encoder
from narrows.models.tokenizer import Tokenizer
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions

# The runner's phases in words; "page-in" and "tokenizer" are added here.
PHASES: Final[Mapping[str, str]] = {
    "read": "opening the checkpoint",
    "verify": "reading the packed weights",
    "pack": "converting and packing",
    "build": "building the model",
    "tokenizer": "opening the tokenizer",
    "page-in": "the first step beyond a later one",
}


@dataclass(frozen=True, slots=True)
class LoadingTimes:
    """Seconds by phase of this start, in their order; the tokenizer opened after the weights."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    packed_bytes: int = 0
    from_cache: bool = False
    major_faults: int | None = None  # pages that came from disk meanwhile

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Started:
    """A runner ready to be traced."""

    runner: CpuRunner
    tokenizer: Tokenizer | None  # None: the folder has none, or a broken one
    loading: LoadingTimes
    tokenizer_problem: str = ""


def start(
    folder: Path, options: CpuOptions, *, progress: Callable[[int, int], None] | None = None
) -> Started:
    """Opens a model as serving does, phase by phase; raises what the loader raises."""
    before = read_process()
    runner = CpuRunner.from_folder(folder, options, progress=progress)
    seconds = dict(runner.load_times)
    tokenizer, problem = None, ""
    began_s = time.perf_counter()
    try:
        encoder = open_encoder(folder, use_cache=options.cache)
        tokenizer = Tokenizer.from_folder(folder, vocab=runner.info.vocab_size, encoder=encoder)
    except InvalidModel as error:  # speed can be told without one
        problem = str(error)
    seconds["tokenizer"] = time.perf_counter() - began_s
    seconds["page-in"] = first_touch(runner)
    after = read_process()
    faults = None
    if before.major_faults is not None and after.major_faults is not None:
        faults = after.major_faults - before.major_faults
    loading = LoadingTimes(
        seconds, runner.info.weight_bytes_per_step, runner.info.description.get("cache") == "used", faults
    )
    return Started(runner, tokenizer, loading, problem)


def first_touch(runner: CpuRunner) -> float:
    """Seconds of the first step beyond those of the third: pages are mapped and caches filled then."""
    runner.add(0, SamplingParams(temperature=0.0), (1,))
    step = Step((SequenceStep(0, (1,), 0, (0,), True),))
    took = []
    for _ in range(3):
        began_s = time.perf_counter()
        runner.run(step)
        took.append(time.perf_counter() - began_s)
    runner.remove(0)
    return max(0.0, took[0] - took[2])
