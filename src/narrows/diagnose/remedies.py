"""What would help: every remedy with its predicted figures, its interval, its price in quality, its command.

In: Findings. Out: Remedies, the largest gain on the target first. A remedy that makes the target worse is
listed too, with a gain below 1: it is known then that it was thought of.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, get_args

from narrows.diagnose.drafting import Drafting
from narrows.diagnose.errors_known import known_error
from narrows.diagnose.findings import Findings
from narrows.diagnose.hosts import pipeline_parallel, replicas, tensor_parallel
from narrows.diagnose.quality import SAME, UNKNOWN, of_weights
from narrows.diagnose.setup import Setup
from narrows.models.spec import TransformerSpec
from narrows.report import Figures, Quality, Remedy, Target
from narrows.runners.options import CpuOptions, KvDtype
from narrows.runners.plan import Recipe

PRUNED: Final = 0.25
CHUNKS: Final = (32, 64, 128, 256, 512)
BATCHES: Final = (0.5, 2, 4)
LINK_SOURCE: Final = "alpha-beta of the link, ring all-reduce"
NOT_HERE: Final = "not available in this version"
# kind -> what `narrows serve` is told
WEIGHTS: Final[Mapping[str, Mapping[str, str]]] = {
    "bf16": {"weights": "bf16"},
    "q8": {"weights": "q8"},
    "q4": {"weights": "q4"},
    "q4-fast": {"weights": "q4", "group-size": "128", "head": "q4"},
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A remedy before it is compared with the present."""

    kind: str
    words: str
    figures: Figures
    quality: Quality
    command: str | None = None
    setup: Setup | None = None  # that --check can apply
    notes: tuple[str, ...] = ()


def remedies(findings: Findings, present: Mapping[str, str], drafting: Drafting | None) -> tuple[Remedy, ...]:
    """`present`: the options that the model runs with, as words of `narrows serve`."""
    now = findings.figures
    made = [_remedy(one, now, findings.target) for one in candidates(findings, present, drafting)]
    return tuple(sorted(made, key=lambda one: -one.gain))


def gain_of(now: Figures, then: Figures, target: Target) -> float:
    """How many times better."""
    match target:
        case "ttft":
            return now.ttft_s / then.ttft_s
        case "tpot":
            return now.tpot_s / then.tpot_s
        case "throughput":
            return then.tokens_per_s / now.tokens_per_s
        case "memory":
            return now.memory_bytes / then.memory_bytes
        case "cost":
            return now.machine_s_per_1k / then.machine_s_per_1k


def _remedy(one: Candidate, now: Figures, target: Target) -> Remedy:
    gain = gain_of(now, one.figures, target)
    error, source = known_error(one.kind)
    if target == "memory":
        error, source = 0.0, "bytes are counted, not estimated"
    return Remedy(
        one.kind,
        one.words,
        gain,
        gain / (1 + error),
        gain * (1 + error),
        source,
        one.figures,
        one.quality,
        one.command,
        one.notes,
    )


def candidates(
    findings: Findings, present: Mapping[str, str], drafting: Drafting | None
) -> Iterator[Candidate]:
    yield from _weights(findings, present)
    yield from _threads(findings, present)
    yield from _batches(findings, present)
    yield from _chunks(findings, present)
    yield from _speculation(findings, present, drafting)
    yield from _smaller_models(findings)
    yield from _keys(findings, present)
    yield from _hosts(findings, present)
    yield from _gpus(findings)


def command(findings: Findings, present: Mapping[str, str], changes: Mapping[str, str]) -> str | None:
    """The words of `narrows serve`; None where Narrows cannot run this model."""
    if not findings.subject.is_known:
        return None
    options = {**present, **changes}
    if options.get("weights") not in ("q4", "q8"):
        options.pop("group-size", None)
    given = [] if findings.subject.given is None else [findings.subject.given]
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return shlex.join(["narrows", "serve", *given, *words])


def weights_setup(findings: Findings, kind: str) -> Setup:
    """The setup with other weights."""
    told = WEIGHTS[kind]
    group = told.get("group-size")
    options = CpuOptions(
        weights=told["weights"],  # type: ignore[arg-type]
        group=None if group is None else int(group),
        head=told.get("head", "auto"),  # type: ignore[arg-type]
    )
    recipe = findings.subject.recipe(options)
    in_int8 = findings.subject.int8_attention(options, recipe)
    return replace(findings.setup, recipe=recipe, int8_attention=in_int8)


def _weights(findings: Findings, present: Mapping[str, str]) -> Iterator[Candidate]:
    words = {
        "bf16": "bf16 weights",
        "q8": "weights in 8 bits",
        "q4": "weights in 4 bits, groups of 64, head in 8",
        "q4-fast": "weights in 4 bits, groups of 128, head in 4",
    }
    is_embedded = findings.subject.given is None
    for kind in WEIGHTS:
        other = weights_setup(findings, kind)
        if other.recipe == findings.setup.recipe:
            continue
        if kind == "bf16" and findings.subject.embedding_item_bytes == 2 and _is_float(findings.setup.recipe):
            continue
        clean = {name: value for name, value in present.items() if name not in ("group-size", "head")}
        yield Candidate(
            f"weights:{kind}",
            words[kind],
            findings.predictor.figures(other),
            of_weights(kind, is_embedded=is_embedded, from_kind=findings.setup.recipe.weights),
            command(findings, clean, WEIGHTS[kind]),
            other,
        )


def _is_float(recipe: Recipe) -> bool:
    return recipe.weights in ("f32", "f16", "bf16")


def _threads(findings: Findings, present: Mapping[str, str]) -> Iterator[Candidate]:
    cores = findings.profile.cores
    most = max(1, int(min(cores.affinity, cores.physical, cores.quota or cores.affinity)))
    tried = {1, most // 2, most} - {0, findings.setup.threads}
    for threads in sorted(tried):
        other = replace(findings.setup, threads=threads)
        yield Candidate(
            f"threads:{threads}",
            f"{threads} thread{'s' if threads > 1 else ''} instead of {findings.setup.threads}",
            findings.predictor.figures(other),
            SAME,
            command(findings, present, {"threads": str(threads)}),
            other,
        )


def _batches(findings: Findings, present: Mapping[str, str]) -> Iterator[Candidate]:
    setup = findings.setup
    for factor in BATCHES:
        streams = int(setup.streams * factor)
        if not 1 <= streams <= findings.max_running:
            continue
        other = replace(setup, streams=streams)
        yield Candidate(
            f"batch:{streams}",
            f"{streams} streams at once instead of {setup.streams}",
            findings.predictor.figures(other),
            SAME,
            command(findings, present, {"max-running": str(streams)}),
            other,
        )


def _chunks(findings: Findings, present: Mapping[str, str]) -> Iterator[Candidate]:
    setup = findings.setup
    if setup.streams == 1:
        return
    now = findings.figures
    for chunk in CHUNKS:
        if chunk == setup.chunk or min(chunk, setup.prompt) == min(setup.chunk, setup.prompt):
            continue
        other = replace(setup, chunk=chunk)
        figures = findings.predictor.figures(other)
        stalls = f"streams wait up to {figures.stall_s * 1e3:,.3g} ms for a token, now {now.stall_s * 1e3:,.3g}"
        yield Candidate(
            f"chunk:{chunk}",
            f"prompts in chunks of {chunk} beside answers",
            figures,
            SAME,
            command(findings, present, {"prefill-chunk": str(chunk)}),
            other,
            (stalls,),
        )


def _speculation(
    findings: Findings, present: Mapping[str, str], drafting: Drafting | None
) -> Iterator[Candidate]:
    if drafting is None or findings.setup.output < 2:
        return
    now = findings.figures
    faster = drafting.gain
    rest = 1 / now.tokens_per_s - now.tpot_s / findings.setup.streams  # of a token: prompts
    figures = replace(
        now,
        tpot_s=now.tpot_s / faster,
        tokens_per_s=1 / (max(0.0, rest) + now.tpot_s / findings.setup.streams / faster),
    )
    figures = replace(figures, machine_s_per_1k=1000 / figures.tokens_per_s)
    notes = (f"{drafting.tokens_per_step:.2f} tokens a step on {drafting.text}; other texts, other guesses",)
    changes = {"speculation": "on"}
    yield Candidate(
        "speculate",
        "tokens guessed from the text so far and verified",
        figures,
        SAME,
        command(findings, present, changes),
        None,
        notes,
    )


def _smaller_models(findings: Findings) -> Iterator[Candidate]:
    spec = findings.setup.spec
    percent = f"{PRUNED:.0%}"
    for kind, words, smaller in (
        ("prune:width", f"prune the MLPs' width by {percent}", _narrower(spec, 1 - PRUNED)),
        ("prune:depth", f"prune {percent} of the layers", _shallower(spec, 1 - PRUNED)),
        ("distil", "distil to half the layers and half the MLPs' width", _narrower(_shallower(spec, 0.5), 0.5)),
    ):
        other = replace(findings.setup, spec=smaller)
        yield Candidate(kind, words, findings.predictor.figures(other), UNKNOWN)


def _narrower(spec: TransformerSpec, share: float) -> TransformerSpec:
    layers = tuple(
        replace(layer, intermediate=max(16, round(layer.intermediate * share / 16) * 16))
        for layer in spec.layers
    )
    return replace(spec, layers=layers)


def _shallower(spec: TransformerSpec, share: float) -> TransformerSpec:
    return replace(spec, layers=spec.layers[: max(1, round(len(spec.layers) * share))])


def _keys(findings: Findings, present: Mapping[str, str]) -> Iterator[Candidate]:
    if findings.setup.kv_item_bytes <= 1:
        return
    other = replace(findings.setup, kv_item_bytes=1.0)
    is_offered = "int8" in get_args(KvDtype)
    yield Candidate(
        "kv:int8",
        "keys and values in 8 bits",
        findings.predictor.figures(other),
        UNKNOWN,
        command(findings, present, {"kv": "int8"}) if is_offered else None,
        None,
        ("bytes only: what unpacking them costs is not counted",),
    )


def _hosts(findings: Findings, present: Mapping[str, str]) -> Iterator[Candidate]:
    hosts, link, setup, predictor = findings.hosts, findings.link, findings.setup, findings.predictor
    if hosts < 2:
        return
    yield Candidate(
        "hosts:replicas",
        f"{hosts} replicas, each on a host of its own",
        replicas(predictor, setup, hosts),
        SAME,
        command(findings, present, {}),
        None,
        ("the command runs on every host; a load balancer in front of them is yours",),
    )
    if link is None:
        return
    notes = (f"{link.peer}: {link.latency_s * 1e6:,.3g} us, {link.gb_per_s:.3g} GB/s; {LINK_SOURCE}",)
    for kind, figures in (
        ("tensor", tensor_parallel(predictor, setup, link, hosts)),
        ("pipeline", pipeline_parallel(predictor, setup, link, hosts)),
    ):
        yield Candidate(f"hosts:{kind}", f"{kind} parallel over {hosts} hosts", figures, SAME, notes=notes)


def _gpus(findings: Findings) -> Iterator[Candidate]:
    from narrows.diagnose.gpus import on_gpu

    for gpu in findings.profile.gpus:
        found = on_gpu(findings.predictor, findings.setup, gpu)
        if found is not None:
            figures, notes = found
            yield Candidate("gpu", f"a GPU: {gpu.name}", figures, SAME, notes=notes)
