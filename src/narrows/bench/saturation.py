"""Was the server given more than it can do? Then percentiles describe the length of the run, not the server.

In: a Phase of an open loop. Out: a Saturation with its evidence and a sentence. Three signs, all from the
client's side: the backlog grows while requests arrive; TTFT or E2E rises with it (a server that batches
without limit starts everyone at once and slows down); the server turns requests away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from narrows.bench.load import Phase
from narrows.bench.record import Record

MIN_REQUESTS = 20
# A backlog that takes more than this share of what arrives is no fluctuation: the excess of a stable queue's
# random walk over so many requests (2 standard deviations of a Poisson count) is added in `_excess`.
MIN_GROWTH_SHARE = 0.05
MIN_RISE = 1.5  # TTFT or E2E of the last third / of the first third
ENOUGH = 100  # requests, from which on an excess of a third is found nine times out of ten
REFUSED_STATUS = (429, 503)
MIN_REFUSED_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Saturation:
    """`is_saturated` is None where it cannot be told. `growth_share`: of the arriving requests, how many
    joined the backlog instead of leaving. `served_per_s`: answers ended while requests were arriving.
    """

    is_saturated: bool | None
    verdict: str
    served_per_s: float | None = None
    growth_share: float | None = None
    latency_rise: float | None = None
    refused_share: float | None = None


def judge(phase: Phase) -> Saturation:
    if phase.offered_per_s is None:
        return Saturation(
            None, "a closed loop waits for the server, so it cannot ask for too much: try --rate or --sweep"
        )
    records = [r for r in phase.records if r.error not in ("interrupted", "client")]
    sent = [record for record in records if record.intended_s <= phase.sending_s]
    if len(sent) < MIN_REQUESTS:
        return Saturation(None, f"{len(sent)} requests are too few to tell; {MIN_REQUESTS} are needed")
    refused = sum(record.status in REFUSED_STATUS for record in sent) / len(sent)
    growth = _growth_share(sent, phase.sending_s)
    rise = _rise(sent)
    in_time = sum(r.is_ok and (r.end_s or np.inf) <= phase.sending_s for r in sent)
    served = in_time / phase.sending_s
    is_growing = growth > _excess(len(sent)) and (rise is None or rise > MIN_RISE)
    figures = {
        "served_per_s": served,
        "growth_share": growth,
        "latency_rise": rise,
        "refused_share": refused,
    }
    if refused > MIN_REFUSED_SHARE:
        return Saturation(
            True,
            f"over-saturated: the server turned {refused:.0%} of the requests away at "
            f"{phase.offered_per_s:.3g} requests/s",
            **figures,
        )
    if is_growing:
        rises = (
            "" if rise is None else f", and latency rose {rise:.1f} times from the first third to the last"
        )
        return Saturation(
            True,
            f"over-saturated: of {phase.offered_per_s:.3g} requests/s the server ended {served:.3g}; "
            f"{growth:.0%} of what arrived joined a growing queue{rises}. Latencies describe how long the "
            "run was, not the server",
            **figures,
        )
    verdict = f"the server kept up with {phase.offered_per_s:.3g} requests/s"
    if len(sent) < ENOUGH:
        verdict += f", as far as {len(sent)} requests can show"
    return Saturation(False, verdict, **figures)


def in_flight(records: Sequence[Record], times_s: Sequence[float]) -> list[int]:
    """Requests meant to be sent and not ended, at each time."""
    began = np.sort([record.intended_s for record in records])
    ended = np.sort([record.end_s if record.end_s is not None else np.inf for record in records])
    return [
        int(np.searchsorted(began, t, side="right") - np.searchsorted(ended, t, side="right"))
        for t in times_s
    ]


def _growth_share(records: Sequence[Record], sending_s: float) -> float:
    """Slope of the requests in flight, in requests per second, over the arrival rate; the first fifth of the
    time, in which every queue fills, is left out.
    """
    times = np.linspace(0.2, 1.0, 200) * sending_s
    slope: float = np.polyfit(times, in_flight(records, list(times)), 1)[0]
    return slope * sending_s / len(records)


def _excess(num_requests: int) -> float:
    return max(MIN_GROWTH_SHARE, 2 / math.sqrt(num_requests))


def _rise(records: Sequence[Record]) -> float | None:
    """Median of the last third over the first's, of TTFT or E2E, whichever rose more. None: too few
    answers.
    """
    served = [
        record
        for record in sorted(records, key=lambda record: record.intended_s)
        if record.status not in REFUSED_STATUS and record.end_s is not None
    ]
    third = len(served) // 3
    if third < 3:
        return None
    rises = []
    for wait in (_first_wait, _whole_wait):
        first = float(np.median([wait(record) for record in served[:third]]))
        last = float(np.median([wait(record) for record in served[-third:]]))
        rises.append(last / first if first > 0 else 1.0)
    return max(rises)


def _first_wait(record: Record) -> float:
    """A request without a token waited until its end."""
    return (record.pieces[0].at_s if record.pieces else record.end_s or 0.0) - record.intended_s


def _whole_wait(record: Record) -> float:
    return (record.end_s or 0.0) - record.intended_s
