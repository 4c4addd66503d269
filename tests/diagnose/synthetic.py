"""Machines, models and workloads that exist only on paper, and a runner whose time is scripted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from narrows.diagnose.observe import Observed, Question, without_running
from narrows.diagnose.options import ModelChoice
from narrows.diagnose.predict import Predictor, Present
from narrows.diagnose.roofline import phase
from narrows.diagnose.setup import LOADS
from narrows.diagnose.subject import Subject, open_subject
from narrows.diagnose.workload import Asked, Workload
from narrows.engine.step import RunnerInfo, Sampled, SamplingParams, SequenceResult, Step, StepResult
from narrows.machine.profile import CacheLevel, Cores, Disk, Disturbance, MachineProfile, Peak
from narrows.report import Report, Target

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
CORES = Cores(
    model="Synthetic CPU",
    isas=("avx512vnni", "avx2", "generic"),
    online=4,
    affinity=4,
    quota=None,
    quota_source="none",
    physical=4,
    shared_cores=False,
    shared_cores_ratio=2.0,
    threads=4,
)


def machine(*, gb_per_s: float = 40.0, gmac_per_s: float = 800.0, **changes: Any) -> MachineProfile:
    """Four cores, 32 MB of cache at five times the memory's bandwidth."""
    cores = replace(CORES, **changes.pop("cores", {}))
    values: dict[str, Any] = {
        "version": 1,
        "fingerprint": "synthetic",
        "measured_at": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "memory_bytes": 32 << 30,
        "swap_bytes": 0,
        "cores": cores,
        "caches": (CacheLevel(2, 1 << 20, 2000.0), CacheLevel(3, 32 << 20, 5 * gb_per_s)),
        "dram_gb_per_s": tuple(gb_per_s * share for share in (0.4, 0.7, 0.9, 1.0)),
        "peaks": (Peak("avx512vnni", gmac_per_s, gmac_per_s / 4),),
        "disk": Disk("/", 1.0, 5.0),
        "links": (),
        "gpus": (),
        "disturbance": Disturbance(0.0, 0.0, 0.01),
        "unknown": {},
    }
    return MachineProfile(**{**values, **changes})


def subject(folder: Path, **changes: Any) -> Subject:
    path = folder / "config.json"
    path.write_text(json.dumps({**LLAMA, **changes}))
    return open_subject(str(path))


def workload(prompt: int = 512, output: int = 128, streams: int = 1, rate: float | None = None) -> Workload:
    return Workload("synthetic", (Asked(prompt, output),), streams, rate, is_preset=True)


def question(
    model: Subject,
    asked: Workload | None = None,
    profile: MachineProfile | None = None,
    *,
    target: Target = "tpot",
    **choice: Any,
) -> Question:
    return Question(model, asked or workload(), profile or machine(), ModelChoice(**choice), target)


def seen(model: Subject, *arguments: Any, **options: Any) -> Observed:
    """By arithmetic alone."""
    return without_running(question(model, *arguments, **options))


def as_if_measured(
    found: Observed, *, host_s: float = 0.0, request_s: float = 0.0, **findings: Any
) -> Observed:
    """The same seconds, said to be measured, with a host around them."""
    old = found.findings
    loads = {load: old.predictor.seconds(old.setup, load) for load in LOADS}
    predictor = Predictor(old.predictor.model, Present(old.setup, loads, host_s, request_s))
    phases = {load: phase(old.setup, load, loads[load], predictor.model, "measured") for load in LOADS}
    return replace(found, findings=replace(old, predictor=predictor, phases=phases, **findings))


def shares(report: Report) -> dict[str, float]:
    return {verdict.kind: verdict.share for verdict in report.verdicts}


class ScriptedRunner:
    """A runner of which every token takes `token_s` and whose operators say so; it advances its own clock."""

    def __init__(self, *, token_s: float = 1e-3, outside_s: float = 2e-3, num_blocks: int = 4096) -> None:
        self.now_s = 0.0
        self.token_s, self.outside_s = token_s, outside_s
        self.steps: list[Step] = []
        self.known: set[int] = set()
        self._times = dict.fromkeys(("attention", "up"), 0.0)
        self.info = RunnerInfo(32000, 1 << 17, 16, num_blocks, 512, 0, 0)
        self.slow_steps = 0  # so many next steps take ten times as long outside

    def clock(self) -> float:
        return self.now_s

    def add(self, request_id: int, params: SamplingParams, prompt_ids: tuple[int, ...]) -> None:
        self.known.add(request_id)

    def remove(self, request_id: int) -> None:
        self.known.discard(request_id)

    def run(self, step: Step) -> StepResult:
        assert {sequence.request_id for sequence in step.sequences} <= self.known
        self.steps.append(step)
        inside_s = self.token_s * step.num_tokens
        self._times["attention"] += 0.25 * inside_s
        self._times["up"] += 0.75 * inside_s
        self.now_s += inside_s + self.outside_s * (10 if self.slow_steps else 1)
        self.slow_steps = max(0, self.slow_steps - 1)
        return StepResult(tuple(SequenceResult(s.request_id, (Sampled(7),)) for s in step.sequences))

    def op_times(self) -> dict[str, float]:
        found, self._times = self._times, dict.fromkeys(self._times, 0.0)
        return found
