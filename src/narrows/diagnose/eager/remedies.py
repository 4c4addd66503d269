"""What would help a service under torch: the same model under Narrows, and what torch itself offers.

In: EagerFindings, Narrows' predictions of the same model. Out: Remedies, by predicted gain; what nobody can
know before it is measured comes last, with the most that it could be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from narrows.diagnose.candidate import Candidate
from narrows.diagnose.eager.findings import EagerFindings
from narrows.diagnose.eager.seen import Name, Rate
from narrows.diagnose.errors_known import known_error
from narrows.diagnose.quality import FLOATS, SAME
from narrows.diagnose.remedies import gain_of
from narrows.report import QUIET, Figures, PhaseReport, Quality, Remedy, Target

BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
LEAST_COPIES: Final = 0.02
MANY_FLOPS: Final = 8.0  # per byte read: products of many rows
ROUNDED: Final = Quality(
    "rounding of weights and sums to 16 bits: not measured here", "no measurement of ours"
)
COMPILED: Final = ("matrices", "attention")  # what a compiler leaves as it is


def eager_remedies(
    findings: EagerFindings, narrows: Sequence[Candidate], target: Target
) -> tuple[Remedy, ...]:
    """`narrows`: the same model under Narrows, as predicted."""
    now = findings.figures
    made = [_disturbed(findings, _remedy(one, now, target)) for one in narrows]
    made += [_remedy(one, now, target) for one in _known(findings)]
    bounds = [_remedy(one, now, target, is_bound=True) for one in _unknown(findings)]
    return tuple(sorted(made + bounds, key=lambda one: (one.is_bound, -one.gain)))


def _remedy(one: Candidate, now: Figures, target: Target, *, is_bound: bool = False) -> Remedy:
    gain = gain_of(now, one.figures, target)
    error, source = known_error(one.kind)
    if is_bound:
        source = "unknown until measured: all work but products and attention gone"
    low, high = (1.0, gain) if is_bound else (gain / (1 + error), gain * (1 + error))
    return Remedy(
        one.kind,
        one.words,
        gain,
        low,
        high,
        source,
        one.figures,
        one.quality,
        one.command,
        one.notes,
        is_bound,
    )


def _disturbed(findings: EagerFindings, remedy: Remedy) -> Remedy:
    """What others took from the present times is no gain: an interval's lower end leaves it out."""
    on_core = min(run.main_thread for run in findings.runs.values())
    if on_core >= QUIET or findings.service.device != "cpu":
        return remedy
    words = f"; its lower end counts the {on_core:.0%} of the present time only that its thread was on a core"
    return replace(remedy, low=remedy.low * on_core, interval_source=remedy.interval_source + words)


def _known(findings: EagerFindings) -> Iterator[Candidate]:
    if any(not phase.ops for phase in findings.phases.values()):
        return  # interrupted before it was known what the time goes to
    if findings.service.device == "cpu":
        yield from _dtypes(findings)
        yield from _threads(findings)
    yield from _static_cache(findings)


def _dtypes(findings: EagerFindings) -> Iterator[Candidate]:
    own = findings.service.dtype
    rates = findings.ceilings.rates
    for other in ("bfloat16", "float32"):
        if other == own or own not in BYTES or not _can(rates, own) or not _can(rates, other):
            continue
        found = findings.service.weight_bytes
        memory = findings.memory_bytes + found * BYTES[other] // BYTES[own] - found
        yield Candidate(
            f"torch-dtype:{other}",
            f"{other} weights under torch",
            findings.compose(_products(findings, rates[own], rates[other], ("matrices",)), memory),
            ROUNDED if other == "bfloat16" else SAME_OR_FINER,
            f"AutoModelForCausalLM.from_pretrained(..., dtype=torch.{other})"
            if findings.service.is_language_model
            else f"module.to(torch.{other})",
            ("from rates of torch's products in both formats, measured here; all else unchanged",),
        )


SAME_OR_FINER: Final = Quality("none: finer numbers than the checkpoint's", "no rounding takes place")


def _can(rates: Mapping[str, Rate], name: str) -> bool:
    return name in rates and rates[name].matrix > 0 and rates[name].vector > 0


def _threads(findings: EagerFindings) -> Iterator[Candidate]:
    own, then = findings.ceilings.rates.get(findings.service.dtype), findings.ceilings.granted_rate
    granted, threads = findings.ceilings.granted, findings.service.threads.intra
    if own is None or then is None or not then.matrix or not then.vector:
        return
    yield Candidate(
        f"torch-threads:{granted}",
        f"{granted} thread{'s' if granted > 1 else ''} of torch instead of {threads}",
        findings.compose(_products(findings, own, then, ("matrices", "attention")), findings.memory_bytes),
        FLOATS,
        f"OMP_NUM_THREADS={granted}",
        ("from rates of torch's products with both numbers of threads, measured here",),
    )


def _products(findings: EagerFindings, own: Rate, other: Rate, groups: tuple[str, ...]) -> dict[Name, float]:
    """Seconds of every phase when its products run at another rate."""
    found: dict[Name, float] = {}
    for name, phase in findings.phases.items():
        ratio = own.vector / other.vector if _is_few_rows(phase) else own.matrix / other.matrix
        changed = sum(op.seconds for op in phase.ops if op.group in groups)
        found[name] = phase.seconds + changed * (ratio - 1)
    return found


def _is_few_rows(phase: PhaseReport) -> bool:
    products = [op for op in phase.ops if op.group == "matrices"]
    read = sum(op.read_bytes for op in products)
    return phase.name == "decode" or sum(op.flops for op in products) < MANY_FLOPS * read


def _static_cache(findings: EagerFindings) -> Iterator[Candidate]:
    decode = findings.phases.get("decode")
    copies = next((op for op in decode.ops if op.group == "copies"), None) if decode is not None else None
    if decode is None or copies is None or copies.share < LEAST_COPIES:
        return
    seconds = {name: phase.seconds for name, phase in findings.phases.items()}
    seconds["decode"] -= copies.seconds
    yield Candidate(
        "static-cache",
        "a KV cache of fixed size under torch",
        findings.compose(seconds, findings.memory_bytes),
        SAME,
        'model.generate(..., cache_implementation="static")',
        ("its copies gone, all else unchanged; attention then walks the whole length that was reserved",),
    )


def _unknown(findings: EagerFindings) -> Iterator[Candidate]:
    if any(not phase.ops for phase in findings.phases.values()):
        return
    seconds = {
        name: max(1e-9, sum(op.seconds for op in phase.ops if op.group in COMPILED))
        for name, phase in findings.phases.items()
    }
    is_gpu = findings.service.device == "cuda"
    mode = ', mode="reduce-overhead"' if is_gpu else ""
    yield Candidate(
        "torch-compile",
        "torch.compile" + (" with CUDA graphs" if is_gpu else ""),
        findings.compose(seconds, findings.memory_bytes),
        FLOATS,
        f"module = torch.compile(module{mode})",
        (
            "what it brings is unknown until measured; it compiles anew where shapes change, as those of a "
            "growing KV "
            "cache do",
        ),
    )
