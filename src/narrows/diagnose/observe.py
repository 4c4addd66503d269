"""Runs a model and puts together what was seen: its start, its loads, the host around them, the machine.

In: a Subject, a Workload, a MachineProfile, options. Out: Findings, and the open runner for --check.
Of a bare config only the arithmetic is left; the same Findings say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narrows.diagnose import drafting
from narrows.diagnose.calibrate import with_barriers
from narrows.diagnose.findings import Findings
from narrows.diagnose.host import HostTimes, measure_host
from narrows.diagnose.loading import Started, start
from narrows.diagnose.measured import MeasuredCeilings
from narrows.diagnose.options import ModelChoice
from narrows.diagnose.predict import CostModel, Predictor, Present, ProfileCeilings
from narrows.diagnose.process import between, cpu_clock, cpu_share, read_process
from narrows.diagnose.roofline import phase
from narrows.diagnose.setup import LOADS, Setup
from narrows.diagnose.subject import Subject
from narrows.diagnose.trace import Timed, Tracer
from narrows.diagnose.workload import Workload
from narrows.engine.config import EngineConfig
from narrows.errors import InternalError, OutOfMemory
from narrows.kernels.formats import KV_BLOCK
from narrows.machine.ceilings import usable_threads
from narrows.machine.profile import Link, MachineProfile
from narrows.report import PhaseReport, Target
from narrows.runners.options import CpuOptions

WRITTEN: int = 96  # tokens of its own that guesses are tried on
WRITING_S = 3.0
BEGINNING = "Once upon a time there was a little fox who found a kite, and the fox"

Tell = Callable[[str], None]  # what is being done now


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be diagnosed. `spare_streams`: blocks for so many are taken, for what --check applies."""

    subject: Subject
    workload: Workload  # fitted to the context
    profile: MachineProfile
    choice: ModelChoice
    target: Target
    link: Link | None = None
    hosts: int = 1
    spare_streams: int = 1

    def options(self, *, threads: int | None = None, num_blocks: int | None = None) -> CpuOptions:
        choice = self.choice
        given: dict[str, Any] = {
            "weights": choice.weights,
            "group": choice.group,
            "head": choice.head,
            "attention": choice.attention,
            "kv_dtype": choice.kv,
            "threads": threads or choice.threads,
            "max_context": choice.max_context,
            "num_blocks": None if num_blocks is None else self._with_context(num_blocks),
        }
        return CpuOptions(**{name: value for name, value in given.items() if value is not None})

    def _with_context(self, num_blocks: int) -> int:
        """A context that was asked for must fit, whatever the workload needs."""
        return max(num_blocks, -(-(self.choice.max_context or 0) // KV_BLOCK))

    def setup(self, threads: int) -> Setup:
        options = self.options()
        recipe = self.subject.recipe(options)
        kv, in_int8 = self.subject.attention(options, recipe)
        return Setup(
            spec=self.subject.spec,
            recipe=recipe,
            threads=threads,
            streams=self.workload.streams,
            prompt=self.workload.prompt_tokens,
            output=self.workload.output_tokens,
            chunk=self.choice.chunk or EngineConfig().prefill_chunk,
            kv=kv,
            int8_attention=in_int8,
            embedding_item_bytes=self.subject.embedding_item_bytes,
        )


@dataclass(frozen=True, slots=True)
class Observed:
    """`started` None: nothing was run."""

    findings: Findings
    drafting: drafting.Drafting | None = None
    started: Started | None = None
    ceilings: MeasuredCeilings | None = None


def without_running(question: Question) -> Observed:
    """By the stored profile's ceilings alone."""
    threads = question.choice.threads or max(1, question.profile.cores.threads)
    setup = question.setup(threads)
    model = CostModel(ProfileCeilings(question.profile))
    predictor = Predictor(model, Present(setup, {}))
    phases: dict[str, PhaseReport] = {
        load: phase(setup, load, predictor.seconds(setup, load), model, "predicted") for load in LOADS
    }
    return Observed(_findings(question, setup, predictor, phases))


@contextmanager
def observed(
    question: Question, tell: Tell, progress: Callable[[int, int], None] | None = None
) -> Iterator[Observed]:
    """Runs the model; the runner stays open inside `with`."""
    folder = question.subject.folder
    if folder is None:
        yield without_running(question)
        return
    threads = question.choice.threads or usable_threads()
    setup = question.setup(threads)
    tell("opening the model")
    started = _start(question, folder, setup, progress)
    try:
        yield _observe(question, setup, started, tell)
    finally:
        started.runner.close()


def _start(
    question: Question, folder: Path, setup: Setup, progress: Callable[[int, int], None] | None
) -> Started:
    """With pages for the streams to check, or for those of the workload where they do not fit."""
    for spare in (question.spare_streams, 1):
        blocks = _blocks(setup, spare)
        try:
            return start(
                folder, question.options(threads=setup.threads, num_blocks=blocks), progress=progress
            )
        except OutOfMemory:
            if spare == 1:
                raise
    raise InternalError("no size of pages was tried")


def _blocks(setup: Setup, spare_streams: int) -> int:
    each = -(-(setup.prompt + setup.output + 16) // KV_BLOCK)
    return max(setup.streams, spare_streams, 2) * each + 1  # a mixed step has two at least


def _observe(question: Question, setup: Setup, started: Started, tell: Tell) -> Observed:
    before = read_process()
    tracer = Tracer(started.runner)
    ceilings = MeasuredCeilings(question.profile)
    timed: dict[str, Timed] = {}
    shares: list[float] = []
    for load in LOADS:
        tell(f"timing {load}")
        began = cpu_clock()
        timed[load] = tracer.measure(setup, load)
        shares.append(cpu_share(began, setup.threads))
    tell("timing the host")
    host = HostTimes(0.0, 0.0, 0.0)
    if started.tokenizer is not None:
        host = measure_host(
            started.runner,
            tracer,
            started.tokenizer,
            started.tokenizer,
            setup,
            greedy_s=timed["decode"].seconds,
        )
    spell = between(before, read_process())
    tell("measuring ceilings")
    model = CostModel(ceilings, with_barriers(CostModel(ceilings), setup, timed["decode"].groups))
    present = Present(
        setup,
        {load: timed[load].groups for load in LOADS},
        host.engine_s,
        host.tokenizer_s,
        host.sampling_s,
    )
    predictor = Predictor(model, present)
    phases: dict[str, PhaseReport] = {
        load: phase(setup, load, timed[load].groups, model, "measured") for load in LOADS
    }
    findings = _findings(
        question, setup, predictor, phases, loading=started.loading, spell=spell, quiet=min(shares)
    )
    tell("trying guesses")
    return Observed(findings, _drafting(findings, started), started, ceilings)


def _findings(
    question: Question,
    setup: Setup,
    predictor: Predictor,
    phases: dict[str, PhaseReport],
    **seen: Any,  # noqa: ANN401
) -> Findings:
    return Findings(
        subject=question.subject,
        setup=setup,
        workload=question.workload,
        profile=question.profile,
        predictor=predictor,
        phases=phases,
        target=question.target,
        max_running=EngineConfig().max_running,
        kv_dtype=question.choice.kv,
        attention=question.choice.attention,
        link=question.link,
        hosts=question.hosts,
        **seen,
    )


def _drafting(findings: Findings, started: Started) -> drafting.Drafting | None:
    """None without a tokenizer, or where no text comes of the weights."""
    setup, predictor = findings.setup, findings.predictor
    if started.tokenizer is None or setup.output < 2 or setup.streams > 16:
        return None
    prompt = started.tokenizer.encode(BEGINNING)
    written = drafting.write(started.runner, prompt, WRITTEN, most_s=WRITING_S)
    if len(written) < 2:
        return None
    costs = drafting.step_costs(predictor, setup, predictor.present.host_s)
    return drafting.draft(prompt, written, costs, f"{len(written)} tokens that it wrote itself")
