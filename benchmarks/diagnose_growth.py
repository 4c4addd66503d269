"""How well remedies would have been predicted in the quiet minutes that growth.py measured: no run is needed.

    diagnose_growth.py            the table of docs/1-diagnose.md from results/growth.jsonl

Every pair of rows that differ in one thing (weights, threads, streams) is a remedy: the row with the remedy
is predicted as `narrows diagnose` predicts it, as the other's seconds times the predicted ratio, operator
group by operator group. The ceilings are those measured around each row, as the bandwidth had moved since.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from diagnose_tables import BEGIN_GROWTH, END_GROWTH, summary, write_docs
from growth import ROWS, read_rows
from growth_models import outline
from growth_points import Point, Row

from narrows.diagnose.predict import waiting
from narrows.machine.bandwidth import last_level_cache_bytes
from narrows.models import costs
from narrows.models.step_time import Ceilings, Rates, cached_share, op_seconds

FEWER_BITS = (("bf16", "q8"), ("bf16", "q4"), ("q8", "q4"))
SHORT_S = 1e-3  # steps below are mostly barriers, whose cost nobody had measured beside these rows


def seconds_of(row: Row) -> tuple[float, dict[str, float]]:
    """(median seconds, by group and "outside")."""
    seconds = statistics.median(one.seconds for one in row.used)
    groups = {name: statistics.median(one.groups[name] for one in row.used) for name in row.used[0].groups}
    return seconds, {**groups, "outside": max(0.0, seconds - sum(groups.values()))}


@cache
def operators(point: Point) -> tuple[tuple[costs.OpCost, int], ...]:
    """Of one unit, over keys and values in 16 bits, as all of these rows were measured."""
    known = outline(point.shape, point.weights)
    in_integers = known.attention[0].int8_prompts
    found: Counter[costs.OpCost] = Counter()
    for chunks in point.chunks():
        found.update(costs.step_costs(known.spec, known.recipe, chunks, int8_attention=in_integers))
    return tuple(found.items())


def by_group(row: Row, rates: Rates) -> dict[str, float]:
    """Predicted seconds of a unit under the ceilings measured around it."""
    middle, point = row.middle(rates)[0], row.point
    num_bytes = sum(count * op.read_bytes for op, count in operators(point)) // len(point.chunks())
    cached = cached_share(num_bytes, last_level_cache_bytes())
    ceilings = Ceilings(middle.gb_per_s, middle.gmac_per_s, point.threads, cached)
    seconds: dict[str, float] = dict.fromkeys(costs.GROUPS, 0.0)
    for op, count in operators(point):
        seconds[op.group] += count * op_seconds(op, ceilings, rates)
    return {group: value * waiting(point.threads, point.weights) for group, value in seconds.items()}


def same_groups(now: Point, then: Point) -> set[str]:
    """Operator groups that the same kernels work for: same_kernels() of diagnose/predict.py."""
    before, after = ({op.group: op.format for op, _ in operators(point)} for point in (now, then))
    ways = [{op.attention for op, _ in operators(point) if op.group == "attention"} for point in (now, then)]
    same = {group for group, kind in after.items() if before.get(group) == kind}
    return same if ways[0] == ways[1] or now.kind == "decode" else same - {"attention"}


def predicted(now: Row, then: Row, rates: Rates) -> float:
    """Seconds of `then` from those of `now`, as diagnose/predict.py has it."""
    _, measured = seconds_of(now)
    ours, theirs, same = by_group(now, rates), by_group(then, rates), same_groups(now.point, then.point)
    found = sum(
        measured[name] * theirs[name] / ours[name] if name in same and ours[name] > 0 else theirs[name]
        for name in theirs
    )
    return found + measured["outside"]


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
