"""Why a service under torch is slow, in plain words.

In: EagerFindings. Out: Verdicts, the largest share of a request first; threads and neighbours come with
shares of their own. Words and thresholds only: every number was computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from narrows.diagnose.eager.findings import EagerFindings, causes, of_op
from narrows.diagnose.machine_verdicts import THROTTLED
from narrows.diagnose.text import seconds as shown_s
from narrows.diagnose.text import three
from narrows.report import QUIET, PhaseReport, Verdict
from narrows.runners.memory import shown_bytes

LEAST_SHARE: Final = 0.02
SYNCS: Final = 2  # a decode step needs one, for its token


def eager_verdicts(findings: EagerFindings) -> tuple[Verdict, ...]:
    found = causes(findings)
    total = sum(found.values())
    made = [
        Verdict(cause, seconds / total, "request", _words(findings, cause), _evidence(findings, cause))
        for cause, seconds in found.items()
        if total and seconds / total >= LEAST_SHARE
    ]
    made += [*_threads(findings), *_neighbours(findings), *_stopped(findings), *_syncs(findings)]
    return tuple(sorted(made, key=lambda one: -one.share))


def _words(findings: EagerFindings, cause: str) -> str:
    if cause in _WORDS:
        return _WORDS[cause](findings)
    phase, _, ceiling = cause.partition("-")
    what = {"prefill": "Reading prompts", "decode": "Writing answers", "unit": "The work"}[phase]
    if ceiling == "compute":
        return (
            f"{what} is bound by arithmetic: matrix products run near the peak of {findings.service.dtype}."
        )
    return (
        f"{what} is bound by memory bandwidth: every {'step' if phase == 'decode' else 'unit'} reads "
        f"{shown_bytes(_read(findings.phases[phase]))} of weights."  # type: ignore[index]
    )


def _read(phase: PhaseReport) -> int:
    return sum(op.read_bytes for op in phase.ops if op.group == "matrices")


def _fp32(findings: EagerFindings) -> str:
    return (
        "The weights are float32: every step reads four bytes a weight where bfloat16 has two; half of the "
        "time "
        "that is bound by memory goes there."
    )


def _emulated(findings: EagerFindings) -> str:
    dtype = findings.service.dtype
    lacks = ", which has no instructions for it" if findings.ceilings.native_bf16 is False else ""
    own, full = findings.ceilings.rates[dtype], findings.ceilings.rates["float32"]
    return (
        f"Matrix products of {dtype} are slower than those of float32 under torch on this CPU{lacks}: "
        "square ones "
        f"reach {three(own.matrix)} GFLOP/s against {three(full.matrix)}, one row at a time "
        f"{three(own.vector)} "
        f"against {three(full.vector)}."
    )


def _dispatch(findings: EagerFindings) -> str:
    return (
        "Python and torch's dispatcher: each operator is called, its shapes are checked, its memory is "
        "taken one "
        "by one, while no arithmetic runs."
    )


def _launches(findings: EagerFindings) -> str:
    return (
        "The GPU waits for the CPU: operators are launched one by one from Python more slowly than the GPU "
        "does "
        "them."
    )


def _copies(findings: EagerFindings) -> str:
    of_keys = (
        " A growing KV cache is concatenated anew at every token." if "decode" in findings.phases else ""
    )
    return f"Tensors are copied: cat, clone, contiguous.{of_keys}"


def _matrices(findings: EagerFindings) -> str:
    return (
        "Matrix products reach neither the memory bandwidth nor the arithmetic peak: they are too small, "
        "their "
        "threads wait for each other, or torch has no good kernel for these shapes on this CPU."
    )


_WORDS: Final[dict[str, Callable[[EagerFindings], str]]] = {
    "fp32-weights": _fp32,
    "emulated": _emulated,
    "dispatch": _dispatch,
    "launches": _launches,
    "copies": _copies,
    "matrices": _matrices,
    "attention": lambda findings: "Attention, beyond the reading of keys and values.",
    "decode-kv": lambda findings: "Long contexts: every step reads all keys and values of its streams.",
    "conversion": lambda findings: (
        "Numbers are converted from one format to another, or moved between devices."
    ),
    "sampling": lambda findings: "Choosing tokens from the logits.",
    "elementwise": lambda findings: (
        "Elementwise work and lookups: each operator walks through memory by itself."
    ),
}


def _evidence(findings: EagerFindings, cause: str) -> tuple[str, ...]:
    found = []
    for name, phase in findings.phases.items():
        profile = findings.runs[name].profile
        if not phase.ops or profile is None:
            continue
        for op in sorted(phase.ops, key=lambda op: -op.seconds):
            mine = sum(seconds for kind, seconds in of_op(findings, phase, op) if kind == cause)
            if mine >= LEAST_SHARE * phase.seconds:
                near = (
                    "near no ceiling" if op.ceiling == "overhead" else f"at {op.fraction:.0%} of {op.ceiling}"
                )
                found.append(f"{name} {op.group}: {shown_s(op.seconds)}, {op.share:.0%} of it, {near}")
        if cause in ("dispatch", "launches"):
            found.append(
                f"{name}: {profile.calls:,} operators called from Python, {shown_s(phase.outside_s)} of "
                f"{shown_s(phase.seconds)} outside of all; an operator on a single number takes "
                f"{shown_s(findings.ceilings.call_s)} here"
            )
        if cause == "launches" and profile.busy_s is not None:
            found.append(f"{name}: the GPU works {shown_s(profile.busy_s)}, {profile.launches:,} launches")
    return tuple(found)


def _threads(findings: EagerFindings) -> Iterator[Verdict]:
    if findings.service.device == "cuda":
        return
    threads, granted = findings.service.threads, findings.ceilings.granted
    seen = max((run.profile.threads_seen for run in findings.runs.values() if run.profile), default=1)
    evidence = (threads.words(), f"this process may use {granted} CPU{'s' if granted > 1 else ''} at once")
    if threads.intra > granted:
        words = (
            f"torch uses {threads.intra} threads where {granted} can run: at the end of every operator all "
            "wait for "
            "one that has no core."
        )
        yield Verdict("threads", 1 - granted / threads.intra, "request", words, evidence)
    elif threads.intra < granted:
        lost = _lost_to_threads(findings)
        if lost >= LEAST_SHARE:
            words = f"torch uses {threads.intra} of the {granted} CPUs that this process may use."
            yield Verdict("threads", lost, "request", words, evidence)
    if seen > 1 and seen * threads.intra > granted:
        words = (
            f"Nested threads: operators run on {seen} threads of the program at once, each with "
            f"{threads.intra} "
            f"threads of its own, on {granted} CPUs."
        )
        yield Verdict("nested-threads", 1 - granted / (seen * threads.intra), "request", words, evidence)


def _lost_to_threads(findings: EagerFindings) -> float:
    """Share of a request that products would be shorter with all CPUs, by the rates measured with them."""
    own, more = findings.ceilings.rates.get(findings.service.dtype), findings.ceilings.granted_rate
    total = sum(phase.seconds * findings.units.get(name, 0) for name, phase in findings.phases.items())
    if own is None or more is None or not total:
        return 0.0
    saved = 0.0
    for name, phase in findings.phases.items():
        now, then = (own.vector, more.vector) if name == "decode" else (own.matrix, more.matrix)
        products = sum(op.seconds for op in phase.ops if op.group == "matrices")
        saved += products * findings.units.get(name, 0) * max(0.0, 1 - now / then) if then else 0.0
    return saved / total


def _neighbours(findings: EagerFindings) -> Iterator[Verdict]:
    got = min(run.main_thread for run in findings.runs.values())
    if got < QUIET and findings.service.device == "cpu":
        words = (
            f"The thread that calls torch was on a core for {got:.0%} of the time only: something else uses "
            "these "
            "cores, or it waits for disk, locks or sleep; all other figures are as good as that."
        )
        yield Verdict("neighbours", 1 - got, "request", words)


def _stopped(findings: EagerFindings) -> Iterator[Verdict]:
    """By the container's quota, or waiting for pages."""
    spell = findings.spell
    if spell is None or spell.seconds <= 0:
        return
    share = (spell.throttled_s or 0.0) / spell.seconds
    if share >= THROTTLED:
        words = "The container's CPU quota stopped this process: give it a larger quota or fewer threads."
        evidence = (f"{shown_s(spell.throttled_s or 0.0)} stopped in {shown_s(spell.seconds)}",)
        yield Verdict("throttling", min(1.0, share), "request", words, evidence)
    if spell.swapped_bytes:
        words = f"Memory is short: {shown_bytes(spell.swapped_bytes)} of this process are swapped out."
        yield Verdict("paging", 0.0, "request", words, (f"{spell.major_faults or 0:,} pages read from disk",))


def _syncs(findings: EagerFindings) -> Iterator[Verdict]:
    if findings.service.device != "cuda":
        return
    for name, phase in findings.phases.items():
        profile = findings.runs[name].profile
        if profile is not None and profile.syncs > SYNCS and phase.seconds:
            words = (
                f"The CPU waits for the GPU {profile.syncs} times in a unit of {name} (item(), copies to "
                "the host): "
                "each time the queue of launches runs empty."
            )
            yield Verdict("synchronisation", phase.outside_s / phase.seconds, "request", words)
