"""From the records of a phase to its figures. Pure; definitions in docs/metrics.md, "From the client's side".

In: a Phase and objectives. Out: a Summary. Latencies are of requests that succeeded; how many did not stands
beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from narrows.bench.intervals import Distribution, Estimate, describe, rate_interval
from narrows.bench.latency import Latency, late_s, latency_of
from narrows.bench.load import Phase
from narrows.bench.record import Record
from narrows.bench.slo import meets

NUM_SLICES = 20  # of the window, for the intervals of rates
LATENCY_NAMES = ("ttft", "answer", "tpot", "itl", "gap", "e2e")


@dataclass(frozen=True, slots=True)
class Requests:
    """`errors`: by kind, HTTP errors by status ("http 429"); `examples`: the first message of each."""

    planned: int
    sent: int
    ok: int
    failed: int
    interrupted: int
    without_done: int  # complete, but without [DONE]
    short: int  # ended before the wanted number of tokens
    errors: dict[str, int]
    examples: dict[str, str]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of successful requests. `counted_by_chunks`: requests without usage, whose tokens are events with text.
    `bunched_gaps`: of `gaps` between chunks, those of no length: both came with one read.
    """

    prompt: int
    output: int
    counted_by_chunks: int
    known_itl: int
    unknown_itl: int
    gaps: int
    bunched_gaps: int


@dataclass(frozen=True, slots=True)
class Goodput:
    """Of all requests that were sent and not interrupted: a failed one meets nothing."""

    limits_s: dict[str, float]
    met: int
    share: float
    per_s: Estimate


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """What this client did wrong itself. `warnings` say when that is enough to doubt the figures."""

    late_s: Distribution | None
    lag_s: Distribution | None
    connect_s: Distribution | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    name: str
    offered_per_s: float | None
    concurrency: int | None
    sending_s: float
    window_s: float  # first intended time until the last successful answer's end
    requests: Requests
    tokens: Tokens
    latency_s: dict[str, Distribution]
    requests_per_s: Estimate
    output_tokens_per_s: Estimate
    goodput: Goodput | None
    client: ClientHealth


def summarize(phase: Phase, limits_s: Mapping[str, float], *, seed: int = 0) -> Summary:
    found = [
        (record, latency) for record in phase.records if (latency := latency_of(record)) and record.is_ok
    ]
    latencies = [latency for _, latency in found]
    window_s = max([record.end_s or 0.0 for record, _ in found], default=phase.sending_s)
    ends_s = [record.end_s or 0.0 for record, _ in found]
    token_times = [piece_s for record, latency in found for piece_s in _token_times(record, latency)]
    return Summary(
        name=phase.name,
        offered_per_s=phase.offered_per_s,
        concurrency=phase.concurrency,
        sending_s=phase.sending_s,
        window_s=window_s,
        requests=_requests(phase),
        tokens=Tokens(
            prompt=sum(record.num_prompt or 0 for record, _ in found),
            output=sum(latency.num_tokens for latency in latencies),
            counted_by_chunks=sum(latency.is_counted_by_chunks for latency in latencies),
            known_itl=sum(len(latency.itl_s) for latency in latencies),
            unknown_itl=sum(latency.num_unknown_itl for latency in latencies),
            gaps=sum(len(latency.gap_s) for latency in latencies),
            bunched_gaps=sum(gap_s == 0 for latency in latencies for gap_s in latency.gap_s),
        ),
        latency_s=distributions(latencies, seed=seed),
        requests_per_s=_rate([(at_s, 1.0) for at_s in ends_s], window_s),
        output_tokens_per_s=_rate(token_times, window_s),
        goodput=_goodput(phase, found, limits_s, window_s) if limits_s else None,
        client=_client(phase, latencies),
    )


def groups_of(latencies: Sequence[Latency], name: str) -> list[tuple[float, ...]]:
    """The numbers of a figure, one group for each request that has it."""
    values: dict[str, Callable[[Latency], tuple[float | None, ...]]] = {
        "ttft": lambda one: (one.ttft_s,),
        "answer": lambda one: (one.answer_s,),
        "tpot": lambda one: (one.tpot_s,),
        "itl": lambda one: one.itl_s,
        "gap": lambda one: one.gap_s,
        "e2e": lambda one: (one.e2e_s,),
    }
    groups = [tuple(value for value in values[name](one) if value is not None) for one in latencies]
    return [group for group in groups if group]


def distributions(latencies: Sequence[Latency], *, seed: int = 0) -> dict[str, Distribution]:
    described = {name: describe(groups_of(latencies, name), seed=seed) for name in LATENCY_NAMES}
    return {name: found for name, found in described.items() if found is not None}


def _requests(phase: Phase) -> Requests:
    errors: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for record in phase.records:
        if record.error is not None and record.error != "interrupted":
            kind = f"http {record.status}" if record.error == "http" else record.error
            errors[kind] += 1
            examples.setdefault(kind, record.detail)
    interrupted = sum(record.error == "interrupted" for record in phase.records)
    ok = [record for record in phase.records if record.is_ok]
    return Requests(
        planned=phase.num_planned,
        sent=len(phase.records),
        ok=len(ok),
        failed=sum(errors.values()),
        interrupted=interrupted,
        without_done=sum(not record.has_done for record in ok),
        short=sum(
            record.asked_output is not None
            and (record.num_output or record.asked_output) < record.asked_output
            for record in ok
        ),
        errors=dict(errors.most_common()),
        examples=examples,
    )


def _token_times(record: Record, latency: Latency) -> list[tuple[float, float]]:
    """When tokens arrived, as (time, how many). Chunks of unknown size share the answer's tokens: for rates
    in slices of the window only, where it does not matter which of two neighbours a token belongs to.
    """
    share = latency.num_tokens / len(record.pieces)
    return [(piece.at_s, share) for piece in record.pieces]


def slice_rates(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    """Answers and output tokens per second in each slice of the window of these successful records."""
    found = [(record, latency) for record in records if (latency := latency_of(record))]
    window_s = max((record.end_s or 0.0 for record, _ in found), default=0.0)
    if window_s <= 0:
        return [], []
    ends = _slices([(record.end_s or 0.0, 1.0) for record, _ in found], window_s)
    tokens = _slices([one for record, latency in found for one in _token_times(record, latency)], window_s)
    per_slice_s = window_s / NUM_SLICES
    return [count / per_slice_s for count in ends], [count / per_slice_s for count in tokens]


def _slices(events: Sequence[tuple[float, float]], window_s: float) -> list[float]:
    counts = [0.0] * NUM_SLICES
    for at_s, amount in events:
        counts[min(NUM_SLICES - 1, max(0, int(at_s / window_s * NUM_SLICES)))] += amount
    return counts


def _rate(events: Sequence[tuple[float, float]], window_s: float) -> Estimate:
    if not events or window_s <= 0:
        return Estimate(0.0, 0.0, 0.0, True)
    return rate_interval(_slices(events, window_s), window_s / NUM_SLICES)


def _goodput(
    phase: Phase, found: Sequence[tuple[Record, Latency]], limits_s: Mapping[str, float], window_s: float
) -> Goodput:
    good = [
        record
        for record, latency in found
        if meets({"ttft": latency.ttft_s, "tpot": latency.tpot_s, "e2e": latency.e2e_s}, limits_s)
    ]
    judged = sum(record.error != "interrupted" for record in phase.records)
    rate = _rate([(record.end_s or 0.0, 1.0) for record in good], window_s)
    return Goodput(dict(limits_s), len(good), len(good) / judged if judged else 0.0, rate)


def _client(phase: Phase, latencies: Sequence[Latency]) -> ClientHealth:
    late = describe([(late,) for record in phase.records if (late := late_s(record)) is not None])
    lag = describe([(value,) for value in phase.lags_s])
    connect = describe([(r.connect_s,) for r in phase.records if r.connect_s is not None])
    ttft = describe(groups_of(latencies, "ttft"))
    warnings = []
    for what, found in (("sent requests late by", late), ("woke late by", lag)):
        if found is None or ttft is None:
            continue
        worst_s = found.percentiles[99].value
        if worst_s > max(2e-3, 0.02 * ttft.percentiles[50].value):
            warnings.append(
                f"this client {what} {worst_s * 1e3:.1f} ms (p99), more than 2 ms or 2 % of the median "
                "TTFT: it is short of CPU, and part of the latency is its own. Run it on another machine, or "
                "at a lower rate"
            )
    return ClientHealth(late, lag, connect, tuple(warnings))
