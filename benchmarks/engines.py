"""Which engines there are: how each converts a checkpoint and how its worker is started.

A peer has an environment in .venvs (peers/setup.sh), peers/<peer>_convert.py FOLDER KIND TARGET and
peers/<peer>_worker.py TARGET. Knows nothing of measuring.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workers import EngineError, WorkerSpec, last_words

HERE = Path(__file__).parent
OURS = "narrows"
# Peer -> (name in the table, ending of what it converts to, its kinds of weights and their bits).
PEERS: dict[str, tuple[str, str, dict[str, int]]] = {
    OURS: ("narrows", "", {"q4": 4, "q4_fast": 4, "q8": 8}),
    "llamacpp": ("llama.cpp", ".gguf", {"q4_0": 4, "q4_k_m": 4, "q8_0": 8}),
    "openvino": ("openvino", ".openvino", {"int4": 4, "int8": 8}),
    "onnxruntime": ("onnxruntime", ".onnxruntime", {"int4": 4}),
    "ctranslate2": ("ctranslate2", ".ctranslate2", {"int8": 8}),
    "vllm": ("vllm", ".vllm", {"int4": 4, "int8": 8}),
}
# q4: KL divergence level with Q4_0's; q4_fast: with OpenVINO's int4 (results/format_quality.jsonl).
OUR_WEIGHTS: dict[str, tuple[str, ...]] = {
    "q4": ("--weights", "q4"),
    "q4_fast": ("--weights", "q4", "--group-size", "128", "--head", "q4"),
    "q8": ("--weights", "q8"),
}
# What was the fastest for one question and not for another: (peer, kind) -> suffix and worker options.
SECOND_SETTINGS = {("openvino", "int4"): (" dq32", ("--dynamic-group", "32"))}
CONVERT_TIMEOUT_S = 7200


@dataclass(frozen=True, slots=True)
class Engine:
    """One peer with one kind of weights."""

    peer: str
    kind: str
    suffix: str = ""  # a second setting of the same weights: its name in the table ...
    options: tuple[str, ...] = ()  # ... and what its worker is told

    @property
    def name(self) -> str:
        return f"{PEERS[self.peer][0]} {self.kind}{self.suffix}"

    @property
    def bits(self) -> int:
        return PEERS[self.peer][2][self.kind]

    @property
    def python(self) -> Path:
        return HERE / ".venvs" / self.peer / "bin" / "python"

    def artifact(self, folder: Path) -> Path:
        """What the worker loads: the converted weights beside the checkpoint, for us the checkpoint."""
        return folder if self.peer == OURS else folder / f"{self.kind}{PEERS[self.peer][1]}"

    def spec(
        self,
        folder: Path,
        *,
        threads: int,
        context: int,
        kv_tokens: int,
        cache: Path | None = None,
    ) -> WorkerSpec:
        """cache: a folder for Narrows' packed weights other than the user's."""
        sizes = (
            "--threads",
            str(threads),
            "--context",
            str(context),
            "--kv-tokens",
            str(kv_tokens),
        )
        python, script, model = self.python, f"peers/{self.peer}_worker.py", self.artifact(folder)
        weights: tuple[str, ...] = ()
        if self.peer == OURS:
            python, script, weights = Path(sys.executable), "narrows_worker.py", OUR_WEIGHTS[self.kind]
        command = (str(python), str(HERE / script), str(model), *sizes, *weights, *self.options)
        environment = {} if cache is None else {"NARROWS_CACHE_DIR": str(cache)}
        return WorkerSpec(self.name, command, environment)


def choose(peers: Sequence[str], kinds: Sequence[str]) -> list[Engine]:
    """The engines of the named peers, all or those of the named kinds; Narrows always comes first."""
    named = [peer for peer in PEERS if peer == OURS or peer in peers]
    found = []
    for peer, kind in ((name, kind) for name in named for kind in PEERS[name][2]):
        found.append(Engine(peer, kind))
        if (peer, kind) in SECOND_SETTINGS:
            found.append(Engine(peer, kind, *SECOND_SETTINGS[peer, kind]))
    return [engine for engine in found if not kinds or engine.kind in kinds]


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def convert(engine: Engine, folder: Path, *, again: bool) -> float | None:
    """Converts the checkpoint unless that was done; returns the seconds it took, None for Narrows.

    Seconds are the whole process, as a user waits for it. Raises EngineError.
    """
    if engine.peer == OURS:
        return None
    if not engine.python.exists():
        raise EngineError(f"no environment: run benchmarks/peers/setup.sh {engine.peer}")
    target = engine.artifact(folder)
    record = folder / f"{target.name}.json"
    if target.exists() and record.exists() and not again:
        seconds: float = json.loads(record.read_text())["seconds"]
        return seconds
    part = folder / f"part-{target.name}"
    remove(part)
    command = (
        engine.python,
        HERE / f"peers/{engine.peer}_convert.py",
        folder,
        engine.kind,
        part,
    )
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        try:
            ended = subprocess.run(command, stdout=log, stderr=log, timeout=CONVERT_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            remove(part)
            raise EngineError(f"conversion took longer than {CONVERT_TIMEOUT_S} s") from error
        seconds = time.perf_counter() - started
        if ended.returncode != 0:
            remove(part)
            log.seek(0)
            raise EngineError(f"conversion ended with {ended.returncode}: {last_words(log.read())}")
    remove(target)
    part.rename(target)
    record.write_text(json.dumps({"seconds": seconds}))
    return seconds
