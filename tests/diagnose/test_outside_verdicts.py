"""Each behaviour of a server, simulated, yields its verdict, and a healthy server none of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import cache

import pytest

from narrows.diagnose.outside.ask import Asker
from narrows.diagnose.outside.findings import Finding, OutsideReport
from narrows.diagnose.outside.run import conclude, experiment
from narrows.diagnose.workload import PRESETS, Workload
from tests.bench.bench_fakes import run_virtually
from tests.diagnose.simulated_server import Behaviour, Simulation

CHAT = Workload("chat", PRESETS["chat"].requests, 4, is_preset=True)
HEALTHY = Behaviour(caches_prefixes=True)


@cache
def examined(
    behaviour: Behaviour = HEALTHY,
    *,
    workload: Workload = CHAT,
    seconds: float = 60.0,
    counts_tokens: bool = False,
    max_context: int | None = 4096,
) -> OutsideReport:
    async def work() -> OutsideReport:
        simulation = Simulation(behaviour, counts_tokens)
        deadline_s = asyncio.get_running_loop().time() + seconds
        server = simulation.server(max_context)
        asker = Asker(server, asyncio.Event(), 7, deadline_s, simulation.open, simulation.samples)
        seen, ended = await experiment(asker, workload.streams, lambda part: None)
        assert asyncio.get_running_loop().time() <= deadline_s + 1.0, "it keeps to its time"
        report = conclude(seen, server, workload, "http://simulated")
        return replace(report, ended=ended)

    return run_virtually(work)


def troubles(report: OutsideReport) -> set[str]:
    return {finding.kind for finding in report.findings if finding.tone == "trouble"}


def fine(report: OutsideReport) -> set[str]:
    return {finding.kind for finding in report.findings if finding.tone == "fine"}


def only(report: OutsideReport, kind: str) -> Finding:
    return report.kinds[kind]


def test_a_healthy_server_has_no_trouble() -> None:
    report = examined()
    assert troubles(report) == set()
    assert {"prefix-cache", "interleaves"} <= fine(report)
    assert {"overhead", "prefill", "decode", "batches"} <= set(report.kinds)
    assert report.ended == ""
    assert report.seen.unmeasured == {}


def test_the_parts_are_those_that_the_server_was_made_of() -> None:
    # 0.2 ms a token and a step of 18 ms for every 128 of them.
    line = examined().seen.line
    assert line is not None
    assert line.per_token_s.value == pytest.approx(0.0002 + 0.018 / 128, rel=0.15)
    whole = examined(Behaviour(chunk=None)).seen.line
    assert whole is not None
    assert whole.per_token_s.value == pytest.approx(0.0002, rel=0.02)
    assert whole.overhead_s.value == pytest.approx(0.010 + 0.018, rel=0.05)
    decode = examined().seen.decode[0]
    assert decode.tpot_s.value == pytest.approx(0.0185, rel=0.01)
    four = next(one for one in examined().seen.levels if one.concurrency == 4)
    assert four.tpot_s is not None
    assert four.tpot_s.value == pytest.approx(0.020, rel=0.2)


def test_shares_are_of_one_request_and_sum_up() -> None:
    for behaviour in (HEALTHY, Behaviour(max_running=1), Behaviour(chunk=None, hold=4)):
        now = examined(behaviour).now
        assert now is not None
        assert sum(now.parts.values()) == pytest.approx(now.e2e_s)
        assert now.ttft_s + now.tpot_s * 255 == pytest.approx(now.e2e_s)
        shares = sum(one.share for one in examined(behaviour).findings)
        assert shares == pytest.approx(1.0, abs=0.011)


def test_one_request_at_a_time() -> None:
    report = examined(Behaviour(max_running=1))
    assert "one-at-a-time" in troubles(report)
    assert not {"no-batching", "queues", "freezes"} & set(report.kinds)
    # Of four users three wait: their time is three quarters of it.
    assert only(report, "one-at-a-time").share == pytest.approx(0.75, abs=0.02)
    assert report.findings[0].kind == "one-at-a-time"


def test_a_queue_behind_four_at_once() -> None:
    report = examined(Behaviour(max_running=4))
    assert "queues" in troubles(report)
    assert "at most 4 answers" in only(report, "queues").words
    assert only(report, "queues").share == 0.0, "four users are served at once"
    eight = examined(Behaviour(max_running=4), workload=Workload("chat", CHAT.requests, 8))
    assert only(eight, "queues").share == pytest.approx(0.5, abs=0.05)


def test_steps_that_are_not_shared() -> None:
    report = examined(Behaviour(step_s=0.0, row_s=0.018))
    assert "no-batching" in troubles(report)
    assert only(report, "no-batching").share > 0.5


def test_prompts_that_freeze_everybody() -> None:
    report = examined(Behaviour(chunk=None, prompt_s=0.0005))
    assert "freezes" in troubles(report)
    found = report.seen.meeting
    assert found is not None
    assert found.longest_gap_s.value == pytest.approx(0.0005 * 2048 + 0.0365, rel=0.1)
    assert only(report, "freezes").share > 0
    small = examined(Behaviour(chunk=32, prompt_s=0.0005))
    assert "freezes" not in small.kinds
    assert "interleaves" in fine(small)
    middling = examined(Behaviour(chunk=256, prompt_s=0.0005))
    assert "slows" in middling.kinds


def test_tokens_that_are_held_back() -> None:
    report = examined(Behaviour(hold=5))
    assert "chunks" in troubles(report)
    assert "chunks hold 4.8 tokens" in only(report, "chunks").words
    assert "chunks" not in examined().kinds


def test_a_prefix_cache_and_none() -> None:
    assert "prefix-cache" in fine(examined(Behaviour(caches_prefixes=True)))
    assert "no-prefix-cache" in troubles(examined(Behaviour()))


def test_cancels_that_are_ignored() -> None:
    for behaviour in (
        Behaviour(ignores_cancels=True, max_running=1),
        Behaviour(ignores_cancels=True, max_running=4),
        Behaviour(ignores_cancels=True, row_s=0.005),
    ):
        assert "ignores-cancels" in troubles(examined(behaviour)), behaviour
    for behaviour in (Behaviour(max_running=1), Behaviour(max_running=4), Behaviour(row_s=0.005)):
        assert "cancels" in fine(examined(behaviour)), behaviour


def test_the_servers_own_counter_tells_cancels_where_time_cannot() -> None:
    light = {"row_s": 0.00001, "caches_prefixes": True}
    assert not {"cancels", "ignores-cancels"} & set(examined(Behaviour(**light)).kinds)
    assert "cancels" in fine(examined(Behaviour(**light), counts_tokens=True))
    ignoring = Behaviour(ignores_cancels=True, **light)
    assert "ignores-cancels" in troubles(examined(ignoring, counts_tokens=True))


def test_requests_that_are_turned_away() -> None:
    report = examined(Behaviour(max_running=4, max_waiting=2))
    assert "refuses" in troubles(report)
    assert "failures" not in report.kinds
    assert "Retry-After says 7 to 7 s" in only(report, "refuses").evidence
    assert report.seen.failures.refused > 0


def test_more_load_that_makes_it_slower() -> None:
    report = examined(Behaviour(thrash_above=4))
    assert "collapses" in troubles(report)


def test_answers_that_stop_now_and_then() -> None:
    report = examined(Behaviour(stall_every=20))
    assert "irregular" in troubles(report)
    assert only(report, "irregular").share > 0.2


def test_attention_and_context_over_long_prompts() -> None:
    report = examined(Behaviour(chunk=None, square_s=1e-6, context_s=1e-5))
    assert {"attention", "context"} <= set(report.kinds)
    assert not {"attention", "context"} & set(examined(Behaviour(chunk=None)).kinds)


@pytest.mark.parametrize(
    ("fault", "kind"), [("garbage", "malformed"), ("dies", "closed"), ("hang", "timeout_first")]
)
@pytest.mark.parametrize("breaks_at", [0, 9, 40, 90])
def test_a_server_that_breaks_ends_in_a_report_that_counts_it(fault: str, kind: str, breaks_at: int) -> None:
    report = examined(Behaviour(fault=fault, breaks_at=breaks_at))
    failed = report.seen.failures
    assert report.findings[0].kind == "failures"
    assert failed.kinds[kind] >= 1, "three of them in a row are enough"
    assert failed.ok > 0 or breaks_at == 0
    assert (report.now is None) == (breaks_at < 40)
    if breaks_at == 0:
        assert report.ended
        assert report.seen.unmeasured


def test_a_slow_server_is_asked_less_and_what_is_missing_is_said() -> None:
    slow = Behaviour(step_s=0.4, prompt_s=0.02)
    report = examined(slow, seconds=30.0)
    assert report.now is not None
    assert any("2048" in part for part in report.seen.unmeasured)
    assert report.seen.failures.failed == 0
    hardly = examined(Behaviour(step_s=5.0), seconds=10.0)
    assert hardly.now is None
    assert "the time was over" in hardly.ended


def test_a_short_context_shrinks_the_lengths() -> None:
    report = examined(Behaviour(), max_context=256)
    assert [one.prompt_tokens for one in report.seen.lengths] == [8, 12, 48, 192]
    assert report.workload.scaled < 1
    assert any("fit the server's context of 256" in note for note in report.notes)
