"""What would help: every remedy with its predicted figures, its interval, its price in quality, its command.

In: Findings. Out: Remedies, the largest gain on the target first. A remedy that makes the target worse is
listed too, with a gain below 1: it is known then that it was thought of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from narrows.diagnose.candidate import WEIGHTS, Candidate, command, weights_setup
from narrows.diagnose.drafting import Drafting
from narrows.diagnose.errors_known import known_error
from narrows.diagnose.findings import Findings
from narrows.diagnose.quality import KV8, SAME, of_weights
from narrows.diagnose.remedies_elsewhere import elsewhere
from narrows.diagnose.setup import Setup
from narrows.engine.speculation import AUTO_STEP_S
from narrows.models.sizes import kv_kinds
from narrows.report import Figures, Remedy, Target
from narrows.runners.plan import Recipe

CHUNKS: Final = (32, 64, 128, 256, 512)
BATCHES: Final = (0.5, 2, 4)


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
    yield from _keys(findings, present)
    yield from _threads(findings, present)
    yield from _batches(findings, present)
    yield from _chunks(findings, present)
    yield from _speculation(findings, present, drafting)
    yield from elsewhere(findings, present)


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
            of_weights(
                kind,
                is_embedded=is_embedded,
                from_kind=findings.setup.recipe.weights,
                item_bytes=findings.subject.embedding_item_bytes,
            ),
            command(findings, clean, WEIGHTS[kind]),
            _kept_otherwise(findings.setup, other),
        )


def _keys(findings: Findings, present: Mapping[str, str]) -> Iterator[Candidate]:
    if findings.setup.kv == "int8":
        return
    yield Candidate(
        "kv:int8",
        "keys and values in 8 bits",
        findings.predictor.figures(replace(findings.setup, kv="int8")),
        KV8,
        command(findings, present, {"kv-dtype": "int8"}),
    )


def _kept_otherwise(now: Setup, then: Setup) -> tuple[str, ...]:
    """A note where layers would keep keys and values in 8 bits that do not now."""
    before, after = (set(kv_kinds(setup.spec, setup.kv)) for setup in (now, then))
    return ("keys and values are kept in 8 bits then, too",) if "int8" in after - before else ()


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
        stalls = (
            f"streams wait up to {figures.stall_s * 1e3:,.3g} ms for a token, now {now.stall_s * 1e3:,.3g}"
        )
        yield Candidate(
            f"chunk:{chunk}",
            f"prompts in chunks of {chunk} beside answers",
            figures,
            SAME,
            command(findings, present, {"prefill-chunk": str(chunk)}),
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
    notes = [f"{drafting.tokens_per_step:.2f} tokens a step on {drafting.text}; other texts, other guesses"]
    changes = {"speculation": "on"}
    if findings.phases["decode"].seconds >= AUTO_STEP_S:
        notes.append("serving does so by itself where steps take so long, unless --speculation off")
        changes = {}
    yield Candidate(
        "speculate",
        "tokens guessed from the text so far and verified",
        figures,
        SAME,
        command(findings, present, changes),
        tuple(notes),
    )
