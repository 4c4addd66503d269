"""Why it is slow, in plain words: every cause with its share of a request's time and its evidence.

In: Findings. Out: Verdicts, the largest share first; what a start or a machine's setting costs comes with a
share of its own. Words and thresholds only: every number was computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from narrows.diagnose.findings import ENGINE, STALLS, Findings, causes
from narrows.diagnose.machine_verdicts import machine_verdicts
from narrows.diagnose.queueing import Queueing, queueing
from narrows.diagnose.setup import Setup
from narrows.report import OpReport, PhaseReport, Verdict
from narrows.runners.memory import shown_bytes

LEAST_SHARE: Final = 0.02  # of a request's time: less is not worth a sentence
OPS_SHOWN: Final = 3
_CEILINGS: Final = {
    "memory": "the memory bandwidth",
    "compute": "the int8 peak",
    "latency": "what threads fetch that wait for their own misses",
    "overhead": "the nearest ceiling",
}


def verdicts(findings: Findings) -> tuple[Verdict, ...]:
    """All causes worth a sentence."""
    found = causes(findings)
    total = sum(found.values())
    made = [
        Verdict(cause, seconds / total, "request", _WORDS[cause](findings), _evidence(findings, cause))
        for cause, seconds in found.items()
        if total and seconds / total >= LEAST_SHARE
    ]
    made += _queueing(findings, total)
    made += machine_verdicts(findings)
    return tuple(sorted(made, key=lambda one: (one.of != "request", -one.share)))


def _reading(findings: Findings) -> PhaseReport:
    return findings.phases["prefill" if findings.setup.streams == 1 else "mixed"]


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _prefill_compute(findings: Findings) -> str:
    setup = findings.setup
    is_float = setup.recipe.weights in ("f32", "f16", "bf16")
    why = "; float weights multiply at a quarter of that rate" if is_float else ""
    return (
        f"Reading prompts of {setup.prompt:,} tokens is bound by arithmetic: the multipliers are the "
        f"ceiling{why}."
    )


def _prefill_memory(findings: Findings) -> str:
    return "Reading prompts waits for memory: they are too short to use each weight many times."


def _prefill_overhead(findings: Findings) -> str:
    return (
        "Reading prompts spends time in work that is near no ceiling: softmax, norms, rounding, threads "
        "that wait for each other."
    )


def _decode_memory(findings: Findings) -> str:
    setup = findings.setup
    num_bytes = sum(op.read_bytes for op in findings.phases["decode"].ops if op.group != "attention")
    shared = "" if setup.streams == 1 else f" for its {setup.streams} streams"
    return (
        f"Writing answers is bound by memory bandwidth: every step reads {shown_bytes(num_bytes)} of "
        f"weights{shared} and multiplies each only {setup.streams if setup.streams > 1 else 'one'} "
        f"{'times' if setup.streams > 1 else 'time'}."
    )


def _decode_compute(findings: Findings) -> str:
    setup = findings.setup
    if setup.recipe.weights in ("f32", "f16", "bf16"):
        return "Writing answers is bound by arithmetic: float weights multiply at a quarter of the int8 rate."
    return (
        f"Writing answers is bound by arithmetic: {setup.streams} streams share each weight, and unpacking "
        "and multiplying it takes longer than reading it."
    )


def _decode_kv(findings: Findings) -> str:
    setup = findings.setup
    num_bytes = int(setup.kv_bytes_per_token * setup.context * setup.streams)
    return (
        f"Long contexts: every step reads the keys and values of {setup.context:,} tokens of "
        f"{setup.streams} stream{'s' if setup.streams > 1 else ''}, {shown_bytes(num_bytes)}."
    )


def _decode_overhead(findings: Findings) -> str:
    return (
        "Steps are so short that fixed costs show: threads that wait for each other, norms, rounding, "
        "softmax, sampling. No ceiling is near."
    )


def _host(findings: Findings) -> str:
    present = findings.predictor.present
    return (
        "The host takes its share beside the operators: "
        f"{present.host_s * 1e6:,.0f} us a step in the engine's Python, "
        f"{present.sampling_s * 1e6:,.0f} us more where tokens are drawn with temperature and filters, "
        f"{findings.phases['decode'].outside_s * 1e6:,.0f} us to enter and leave the native core, "
        f"{present.request_s * 1e3:.2f} ms for a prompt's tokenizer."
    )


def _batching(findings: Findings) -> str:
    setup, stall_s = findings.setup, findings.figures.stall_s
    return (
        f"Streams wait for each other's prompts: while one of {setup.streams} is read, in chunks of "
        f"{setup.chunk}, the others get a token every {stall_s * 1e3:,.3g} ms instead of every "
        f"{findings.phases['decode'].seconds * 1e3:,.3g} ms."
    )


_WORDS: Final[dict[str, Callable[[Findings], str]]] = {
    "prefill-compute": _prefill_compute,
    "prefill-memory": _prefill_memory,
    "prefill-overhead": _prefill_overhead,
    "decode-memory": _decode_memory,
    "decode-compute": _decode_compute,
    "decode-kv": _decode_kv,
    "decode-overhead": _decode_overhead,
    ENGINE: _host,
    STALLS: _batching,
}


def _evidence(findings: Findings, cause: str) -> tuple[str, ...]:
    phase, _, ceiling = cause.partition("-")
    if phase not in ("prefill", "decode"):
        return ()
    report = findings.phases["decode"] if phase == "decode" else _reading(findings)
    is_kv = ceiling == "kv"
    wanted = ("memory", "latency") if ceiling in ("memory", "kv") else (ceiling,)
    ops = [
        op
        for op in report.ops
        if op.ceiling in wanted
        and (phase == "prefill" or wanted[0] != "memory" or (op.group == "attention") == is_kv)
    ]
    ops.sort(key=lambda op: -op.seconds)
    return tuple(_op_words(report, op) for op in ops[:OPS_SHOWN] if op.share >= LEAST_SHARE)


def _op_words(report: PhaseReport, op: OpReport) -> str:
    return (
        f"{report.name} {op.group}: {op.seconds * 1e3:,.3g} ms, {_percent(op.share)} of it, at "
        f"{_percent(op.fraction)} of {_CEILINGS[op.ceiling]}"
    )


def _queueing(findings: Findings, request_s: float) -> Iterator[Verdict]:
    workload = findings.workload
    if workload.requests_per_s is None:
        return
    found = estimate(findings)
    evidence = (
        f"{found.rate:.3g} requests a second come, {found.capacity:.3g} can be served: "
        f"{_percent(found.utilisation)} in use",
    )
    if found.wait_s is None or found.streams is None:
        words = (
            "More requests come than this machine can serve: the queue grows as long as they do, and so "
            "does every wait. Nothing but more speed, fewer requests or more machines helps."
        )
        yield Verdict("queueing", 1.0, "request", words, evidence)
        return
    share = found.wait_s / (found.wait_s + request_s)
    if share >= LEAST_SHARE:
        words = (
            f"Requests wait for each other before they begin: about {found.wait_s:.2g} s at this rate of "
            f"arrivals, with {found.streams} under way on average."
        )
        yield Verdict("queueing", share, "request", words, evidence)


def estimate(findings: Findings) -> Queueing:
    """Of the workload's own rate."""
    workload, setup = findings.workload, findings.setup
    if workload.requests_per_s is None:
        raise ValueError("the workload says nothing of a rate")

    def served(streams: int) -> float:
        other: Setup = replace(setup, streams=streams)
        return findings.predictor.figures(other).tokens_per_s / setup.output

    lengths = [one.prompt_tokens + one.output_tokens for one in workload.requests]
    return queueing(workload.requests_per_s, served, lengths, max_running=findings.max_running)
