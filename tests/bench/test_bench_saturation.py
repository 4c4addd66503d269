"""Over-saturation is found where a queue grows, and not where it only fluctuates. Simulated queues, fixed
seeds.
"""

from __future__ import annotations

import heapq
import random

import pytest
from bench_fakes import record

from narrows.bench.load import Phase
from narrows.bench.record import Piece, Record
from narrows.bench.saturation import in_flight, judge


def queue(load: float, *, num: int = 200, servers: int = 4, seed: int = 0, rate: float = 10.0) -> Phase:
    """Poisson arrivals at `rate`; each server ends `rate / load / servers` requests a second."""
    draw = random.Random(seed)
    free, now_s, records = [0.0] * servers, 0.0, []
    for index in range(num):
        now_s += draw.expovariate(rate)
        begin_s = max(heapq.heappop(free), now_s)
        took_s = load * servers / rate * draw.uniform(0.7, 1.3)
        heapq.heappush(free, begin_s + took_s)
        records.append(
            Record(index, now_s, status=200, pieces=(Piece(begin_s + 0.1 * took_s),), end_s=begin_s + took_s)
        )
    return Phase("queue", tuple(records), now_s + 0.1, num / (now_s + 0.1), None, num)


def sharing(load: float, *, num: int = 200) -> Phase:
    """A server that starts everybody at once and slows down: first tokens come soon, answers ever later."""
    records = []
    for index in range(num):
        at_s = index / 10
        took_s = 0.5 if load < 1 else 0.5 + (load - 1) * at_s
        records.append(Record(index, at_s, status=200, pieces=(Piece(at_s + 0.05),), end_s=at_s + took_s))
    return Phase("sharing", tuple(records), num / 10, 10.0, None, num)


@pytest.mark.parametrize("seed", range(5))
def test_a_queue_that_grows_is_over_saturated_and_one_that_fluctuates_is_not(seed) -> None:
    for load, expected in ((0.3, False), (0.7, False), (1.6, True), (3.0, True)):
        found = judge(queue(load, seed=seed))
        assert found.is_saturated is expected, (load, found)
    assert "growing queue" in judge(queue(3.0, seed=seed)).verdict


def test_the_growth_is_the_share_that_is_not_served() -> None:
    found = judge(queue(2.0, num=1000))
    assert found.growth_share == pytest.approx(0.5, abs=0.06)
    assert found.served_per_s == pytest.approx(5.0, rel=0.1)


def test_a_server_that_slows_everybody_down_is_found_by_its_answers() -> None:
    assert judge(sharing(2.0)).is_saturated is True
    assert judge(sharing(0.5)).is_saturated is False


def test_turning_requests_away_is_over_saturation() -> None:
    phase = queue(0.5)
    refused = [
        record(one.index, intended_s=one.intended_s, at_s=(), error="http", status=429)
        if one.index % 5 == 0
        else one
        for one in phase.records
    ]
    found = judge(Phase("x", tuple(refused), phase.sending_s, phase.offered_per_s, None, 200))
    assert found.is_saturated is True
    assert "turned 20% of the requests away" in found.verdict


def test_what_cannot_be_told_is_said() -> None:
    few = judge(queue(3.0, num=10))
    assert few.is_saturated is None
    assert "too few" in few.verdict
    closed = judge(Phase("x", queue(3.0).records, 10.0, None, 4, 200))
    assert closed.is_saturated is None
    assert "closed loop" in closed.verdict
    assert "as far as 40 requests can show" in judge(queue(0.3, num=40)).verdict


def test_requests_in_flight() -> None:
    records = [record(i, intended_s=float(i), at_s=(i + 1.5,)) for i in range(3)]
    assert in_flight(records, [-0.1, 0.0, 1.0, 1.6, 2.0, 9.0]) == [0, 1, 2, 1, 2, 0]
