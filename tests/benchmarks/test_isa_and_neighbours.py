"""isa.py and neighbours.py: ratios of rounds, fractions of ceilings, shares of the CPU."""

from __future__ import annotations

import os
import time
from pathlib import Path

import isa
import neighbours
import pytest
from isa import Answer, Column
from neighbours import Asked, Found, Situation
from workers import Worker

from narrows.models.resolve import resolve_model


def test_ratios_are_taken_within_a_round() -> None:
    """Both slow down threefold in the second round: the ratio stays."""
    best = Column("avx512vnni", {"decode": [Answer(90, 0.9, 9), Answer(30, 0.9, 9), Answer(60, 0.9, 9)]})
    other = Column("avx2", {"decode": [Answer(45, 0.45, 6), Answer(15, 0.45, 6), Answer(48, 0.5, 6)]})
    first, second = isa.summarize("m", [best, other], 2)
    assert (first.ratio, second.ratio) == (1.0, 0.5)
    assert second.ratio_of_highest == pytest.approx(48 / 90, abs=1e-4)
    assert second.ratio_by_cpu_time == pytest.approx(2 / 3, abs=1e-4)
    assert (second.tokens_per_s, second.low, second.high) == (45, 15, 48)
    assert "below 0.6" in isa.table([first, second])[2]
    assert "below" not in isa.table([first, second])[1]


def test_a_fraction_counts_a_step_once_for_all_its_streams() -> None:
    decode, prefill, streams = isa.QUESTIONS
    ceilings = {"gb_per_s": 20.0, "gmac_per_s": 100.0}
    sizes = {"num_bytes": 1e9, "body_params": 1_000_000_000, "ceilings": ceilings}
    assert isa.fraction_of_ceiling(decode, 10.0, **sizes) == pytest.approx(0.5)
    assert isa.fraction_of_ceiling(streams, 80.0, **sizes) == pytest.approx(0.5)
    assert isa.fraction_of_ceiling(prefill, 50.0, **sizes) == pytest.approx(0.5)


def test_generic_is_asked_for_less_of_the_same() -> None:
    for question in isa.QUESTIONS:
        less = isa.scaled(question, "generic")
        assert isa.scaled(question, "avx2") == question
        assert (less.name, less.streams, less.counts) == (question.name, question.streams, question.counts)
        assert less.prompt < question.prompt
        assert less.tokens > 1 or question.counts == "prefill"


def test_a_worker_decodes_for_a_while_and_measures_its_ceilings() -> None:
    with Worker(isa.spec(resolve_model(None), "q4", "generic", 1)) as worker:
        assert (worker.hello["isa"], worker.hello["threads"]) == ("generic", 1)
        answer = worker.ask("decode", ms=1, low=5, high=4096)
        assert answer["tokens"] >= 1
        assert answer["seconds"] > 0
        ceilings = worker.ask("ceilings", bytes=1 << 20, ms=1)
        assert min(ceilings["gb_per_s"], ceilings["gmac_per_s"]) > 0
        answer = worker.ask("generate", streams=2, prompt=3, tokens=2, seed=1, low=5, high=4096)
        assert min(answer["first_s"], answer["rest_s"], answer["cpu_s"]) > 0


def test_the_share_left_is_what_limits_allow_less_what_neighbours_took() -> None:
    assert neighbours.share_left(1.0, 1.0, 2.0, 2) == 0.75
    assert neighbours.share_left(0.5, 0.0, 2.0, 2) == 0.5


def test_speed_is_compared_with_the_share_of_the_same_round() -> None:
    alone = Found(Situation("alone"), [Asked(100, 1.0), Asked(50, 1.0)])
    beside = Found(Situation("beside"), [Asked(75, 0.75), Asked(20, 0.8)])
    first, second = neighbours.summarize("m", [alone, beside])
    assert (first.speed, first.of_proportional) == (1.0, 1.0)
    assert second.speed == pytest.approx((0.75 + 0.4) / 2)
    assert second.lowest == 0.5


def test_situations_without_a_cgroup_leave_quotas_out() -> None:
    names = {one.engine for one in neighbours.situations([0, 1], quota=False)}
    assert names == {"free", "affinity"}
    with_quota = neighbours.situations([0, 1], quota=True)
    assert {one.share for one in with_quota if one.engine != "free"} == {0.5}
    assert neighbours.situations([3, 4, 5], quota=False)[3].busy == ((3, 1.0), (4, 1.0), (5, 1.0))


def test_a_neighbour_takes_cpu_time_and_is_gone_afterwards() -> None:
    core = min(os.sched_getaffinity(0))
    with neighbours.neighbours([(core, 1.0)]) as taken_s:
        end_s = time.monotonic() + 60
        while taken_s() < 0.05 and time.monotonic() < end_s:
            time.sleep(0.05)
        assert taken_s() >= 0.05
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    left = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert len(left) == len(children) - 1
