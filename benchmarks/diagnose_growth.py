"""How well remedies would have been predicted in the quiet minutes that growth.py measured: no run is needed.

    diagnose_growth.py            the table of docs/1-diagnose.md from results/growth.jsonl

Every pair of rows that differ in one thing (weights, threads, streams) is a remedy: the row with the remedy
is predicted as `narrows diagnose` predicts it, as the other's seconds times the predicted ratio, operator
group by operator group. The ceilings are those measured around each row, as the bandwidth had moved since.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

from diagnose_tables import BEGIN_GROWTH, END_GROWTH, summary, write_docs
from growth import ROWS, read_rows
from growth_points import Point, Row, predict_groups

from narrows.diagnose.predict import waiting
from narrows.models.step_time import Rates

FEWER_BITS = (("bf16", "q8"), ("bf16", "q4"), ("q8", "q4"))
SHORT_S = 1e-3  # steps below are mostly barriers, whose cost nobody had measured beside these rows


def seconds_of(row: Row) -> tuple[float, dict[str, float]]:
    """(median seconds, by group and "outside")."""
    seconds = statistics.median(one.seconds for one in row.used)
    groups = {name: statistics.median(one.groups[name] for one in row.used) for name in row.used[0].groups}
    return seconds, {**groups, "outside": max(0.0, seconds - sum(groups.values()))}


def predicted(now: Row, then: Row, rates: Rates) -> float:
    """Seconds of `then` from those of `now`, as diagnose/predict.py has it."""
    _, measured = seconds_of(now)
    ours = predict_groups(now.point, now.middle(rates)[0], rates)
    theirs = predict_groups(then.point, then.middle(rates)[0], rates)
    share = waiting(then.point.threads, then.point.weights) / waiting(now.point.threads, now.point.weights)
    found = sum(measured[name] * theirs[name] / ours[name] for name in theirs if ours[name] > 0)
    return share * found + measured["outside"]


def pairs(rows: dict[Point, Row]) -> Iterator[tuple[str, Row, Row]]:
    """(kind of remedy, present, remedied)."""
    for point, row in rows.items():
        for before, after in FEWER_BITS:
            other = rows.get(replace(point, weights=after))
            if point.weights == before and other is not None:
                yield "weights", row, other
        one_thread = rows.get(replace(point, threads=1))
        if point.threads == 2 and one_thread is not None:
            yield "threads", row, one_thread
        for other_point, other in rows.items():
            alone = replace(other_point, streams=1)
            if point.kind == "decode" and other_point.streams > 1 and alone == point:
                yield "batch", row, other


def main() -> None:
    rates = Rates()
    rows = {row.point: row for row in read_rows(ROWS)}
    found: list[tuple[str, Row, float]] = []
    for kind, now, then in pairs(rows):
        found.append((kind, then, predicted(now, then, rates) / seconds_of(then)[0] - 1))
    long = [one for one in found if seconds_of(one[1])[0] >= SHORT_S]
    lines = ["| | pairs | median error | 90th percentile | worst |", "|---|---|---|---|---|"]
    for kind in dict.fromkeys(kind for kind, _, _ in found):
        lines.append(summary(errors(long, kind), f"{kind}, steps of 1 ms and more"))
    lines.append(summary([error for _, _, error in long], "**all, steps of 1 ms and more**"))
    short = [error for _, then, error in found if seconds_of(then)[0] < SHORT_S]
    lines.append(summary(short, "shorter steps (the model of 9 million)"))
    lines.append(summary([error for _, _, error in found], "**all**"))
    text = "\n".join(lines)
    print(text)
    write_docs(text, BEGIN_GROWTH, END_GROWTH)


def errors(found: Sequence[tuple[str, Row, float]], kind: str) -> list[float]:
    return [error for name, _, error in found if name == kind]


if __name__ == "__main__":
    main()
