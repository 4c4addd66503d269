"""Client and load on a virtual clock: who is sent when, and what the client makes of what comes back."""

from __future__ import annotations

import asyncio

import pytest
from bench_fakes import (
    ENDPOINT,
    HEAD,
    Wires,
    answer,
    finish_event,
    refuse,
    run_virtually,
    sse,
    text_event,
    usage_event,
)

from narrows.bench.client import Client, Target
from narrows.bench.latency import latency_of
from narrows.bench.load import Load, Phase
from narrows.bench.prompts import Prompt
from narrows.bench.workload import Planned

TARGET = Target(ENDPOINT, "/v1", "m", "chat", {}, timeout_s=30.0)


def planned(index: int, at_s: float | None = None, max_tokens: int = 3) -> Planned:
    return Planned(index, Prompt.of_text("hello"), max_tokens, None, at_s)


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-9)


def test_latency_counts_from_the_intended_time_although_connecting_took_longer() -> None:
    wires = Wires(lambda i: answer((0.1, 0.2)), connect_s=0.5)

    async def work() -> Phase:
        return await load(wires).open_loop("x", [planned(0, at_s=0.0)])

    only = run_virtually(work).records[0]
    found = latency_of(only)
    assert found is not None
    # Connections are opened 0.2 s ahead; this one was 0.3 s too slow, which its user would have waited.
    assert only.connect_s == close(0.5)
    assert found.ttft_s == close(0.4)
    assert found.late_s == close(0.0), "the server was slow to accept, not this client to send"


def test_a_connection_opened_ahead_costs_nothing() -> None:
    wires = Wires(lambda i: answer((0.1, 0.2)), connect_s=0.05)
    phase = run_virtually(lambda: load(wires).open_loop("x", [planned(i, at_s=i * 0.5) for i in range(4)]))
    assert [latency_of(r).ttft_s for r in phase.records] == [close(0.1)] * 4
    assert [r.sent_s for r in phase.records] == [close(i * 0.5) for i in range(4)]
    assert phase.offered_per_s == close(2.0)


def test_an_open_loop_sends_on_time_to_a_server_that_stalls() -> None:
    """The third answer takes ten seconds. A closed loop sends the fourth after it and sees no harm."""
    script = {2: answer((10.0, 10.1))}
    wires = Wires(lambda i: script.get(i, answer((0.1, 0.2))))
    plan = [planned(i, at_s=float(i)) for i in range(6)]
    opened = run_virtually(lambda: load(wires).open_loop("x", plan))
    assert [r.sent_s for r in opened.records] == [close(float(i)) for i in range(6)]
    closed = run_virtually(
        lambda: load(Wires(lambda i: script.get(i, answer((0.1, 0.2))))).closed_loop("x", plan, 1)
    )
    assert closed.records[3].intended_s == close(0.2 * 2 + 10.1)


def test_a_closed_loop_keeps_as_many_in_flight_as_users() -> None:
    wires = Wires(lambda i: answer((0.5, 1.0)))
    phase = run_virtually(lambda: load(wires).closed_loop("x", (planned(i) for i in range(9)), 3))
    assert [r.intended_s for r in phase.records] == [close(float(i // 3)) for i in range(9)]
    assert phase.offered_per_s is None
    timed = run_virtually(
        lambda: load(Wires(lambda i: answer((0.5, 1.0)))).closed_loop(
            "x", (planned(i) for i in range(1000)), 3, duration_s=2.5
        )
    )
    assert len(timed.records) == 9, "requests that began before the end are finished"


def test_a_stop_keeps_what_was_measured_and_marks_what_was_under_way() -> None:
    wires = Wires(lambda i: answer((0.1, 5.0)))
    stop = asyncio.Event()

    async def work() -> Phase:
        asyncio.get_running_loop().call_later(7.45, stop.set)
        return await load(wires, stop).open_loop("x", [planned(i, at_s=float(i)) for i in range(60)])

    phase = run_virtually(work)
    assert phase.was_stopped
    assert [r.error for r in phase.records] == [None] * 3 + ["interrupted"] * 5
    assert all(r.pieces for r in phase.records[:7])
    assert phase.num_planned == 60
    assert phase.sending_s == pytest.approx(7.25)


def test_the_clock_of_a_timeout_starts_when_the_request_was_meant_to_leave() -> None:
    silent = [(0.0, HEAD)]
    half = [(0.0, HEAD), (1.0, text_event("x"))]
    wires = Wires(lambda i: (silent, half)[i])
    phase = run_virtually(lambda: load(wires).open_loop("x", [planned(0, 0.0), planned(1, 5.0)]))
    assert [r.error for r in phase.records] == ["timeout_first", "timeout"]
    assert [r.end_s for r in phase.records] == [close(30.0), close(35.0)]


def test_a_refused_connection_is_counted() -> None:
    async def work() -> Phase:
        loop = Load(
            lambda began_s: Client(TARGET, began_s=began_s, open_connection=refuse),
            stop=asyncio.Event(),
            on_record=lambda one: None,
        )
        return await loop.open_loop("x", [planned(0, 0.0)])

    assert run_virtually(work).records[0].error == "refused"


def test_reasoning_counts_as_tokens_and_the_answer_is_timed_apart() -> None:
    events = [
        (0.0, HEAD + sse({"choices": [{"delta": {"role": "assistant", "content": ""}}]})),
        (0.1, sse({"choices": [{"delta": {"reasoning_content": "hm"}}]})),
        (0.4, text_event("so")),
        (0.5, finish_event() + usage_event(2) + sse(b"[DONE]")),
    ]
    phase = run_virtually(lambda: load(Wires(lambda i: events)).open_loop("x", [planned(0, 0.0)]))
    found = latency_of(phase.records[0])
    assert found is not None
    assert (found.ttft_s, found.answer_s) == (close(0.1), close(0.4))


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({"logprobs": {"content": [{}, {}, {}]}}, 3),
        ({"token_ids": [5, 6]}, 2),
        ({"logprobs": {"tokens": ["a"]}}, 1),
        ({}, None),
    ],
)
def test_tokens_of_a_chunk_are_read_where_the_server_says_them(more, tokens) -> None:
    events = [
        (0.0, HEAD),
        (0.1, text_event("abc", **more)),
        (0.2, finish_event() + usage_event(tokens or 1) + sse(b"[DONE]")),
    ]
    phase = run_virtually(lambda: load(Wires(lambda i: events)).open_loop("x", [planned(0, 0.0)]))
    assert phase.records[0].pieces[0].tokens == tokens


def test_usage_in_every_chunk_counts_along_and_usage_at_the_end_is_the_sum() -> None:
    def with_usage(text: str, total: int) -> bytes:
        usage = {"prompt_tokens": 1, "completion_tokens": total}
        return sse({"choices": [{"delta": {"content": text}}], "usage": usage})

    along = [
        (0.0, HEAD),
        (0.1, with_usage("a", 1)),
        (0.2, with_usage("bcd", 4)),
        (0.3, finish_event() + sse(b"[DONE]")),
    ]
    last = sse(
        {
            "choices": [{"delta": {}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 9},
        }
    )
    at_end = [(0.0, HEAD), (0.1, text_event("a")), (0.2, text_event("b")), (0.3, last + sse(b"[DONE]"))]
    wires = Wires(lambda i: (along, at_end)[i])
    phase = run_virtually(lambda: load(wires).open_loop("x", [planned(0, 0.0), planned(1, 1.0)]))
    assert [piece.tokens for piece in phase.records[0].pieces] == [1, 3]
    assert [piece.tokens for piece in phase.records[1].pieces] == [None, None]
    assert phase.records[1].num_output == 9


def test_llama_cpps_stamps_of_each_token_are_used() -> None:
    def stamped(text: str, count: int, ms: float) -> bytes:
        return sse(
            {"choices": [{"delta": {"content": text}}], "timings": {"predicted_n": count, "predicted_ms": ms}}
        )

    # Both chunks reach the client at once; the server knows that a second lay between them.
    events = [
        (0.0, HEAD),
        (1.5, stamped("a", 1, 20.0) + stamped("b", 2, 1020.0)),
        (1.5, finish_event() + sse(b"[DONE]")),
    ]
    phase = run_virtually(lambda: load(Wires(lambda i: events)).open_loop("x", [planned(0, 0.0)]))
    found = latency_of(phase.records[0])
    assert found is not None
    assert (found.itl_s, found.gap_s) == ((close(1.0),), (0.0,))


def test_a_bench_that_is_ended_from_outside_sends_nothing_more() -> None:
    """A second Ctrl-C cancels every task: users must not take that for the end of their answer and go on."""
    wires = Wires(lambda i: answer((1.0, 50.0)))

    async def work() -> int:
        running = asyncio.create_task(load(wires).closed_loop("x", (planned(i) for i in range(99)), 3))
        await asyncio.sleep(10)
        users = asyncio.all_tasks() - {running, asyncio.current_task()}
        running.cancel()
        for user in users:
            user.cancel()
        await asyncio.gather(running, *users, return_exceptions=True)
        return len(wires.opened)

    assert run_virtually(work) == 3


@pytest.mark.parametrize(
    ("usage", "num_prompt", "num_output"),
    [
        ({"completion_tokens": "2"}, None, None),
        ({}, None, None),
        ({"prompt_tokens": 4, "completion_tokens": 1}, 4, 1),
    ],
)
def test_usage_that_is_no_number_is_no_usage(usage, num_prompt, num_output) -> None:
    events = [
        (0.0, HEAD),
        (0.1, text_event("x")),
        (0.2, finish_event() + sse({"choices": [], "usage": usage}) + sse(b"[DONE]")),
    ]
    phase = run_virtually(lambda: load(Wires(lambda i: events)).open_loop("x", [planned(0, 0.0)]))
    one = phase.records[0]
    assert (one.error, one.num_prompt, one.num_output) == (None, num_prompt, num_output)


@pytest.mark.parametrize(
    "event", [b"[" * 200_000, b"data", b"\xff", b'{"choices": 3}', b'{"usage": [1]}', b"null"]
)
def test_events_of_any_shape_end_in_a_record(event) -> None:
    events = [(0.0, HEAD), (0.1, sse(event)), (0.2, sse(b"[DONE]"))]
    phase = run_virtually(lambda: load(Wires(lambda i: events)).open_loop("x", [planned(0, 0.0)]))
    assert phase.records[0].error == "malformed"


def test_the_request_says_what_was_asked() -> None:
    wires = Wires(lambda i: answer((0.1,)))
    run_virtually(lambda: load(wires).open_loop("x", [planned(0, 0.0)]))
    head, _, body = wires.opened[0].written.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1")
    assert b'"messages": [{"role": "user", "content": "hello"}]' in body
    assert b'"max_tokens": 3' in body
    assert b'"stream": true' in body


def load(wires: Wires, stop: asyncio.Event | None = None) -> Load:
    return Load(
        lambda began_s: Client(TARGET, began_s=began_s, open_connection=wires.open),
        stop=stop or asyncio.Event(),
        on_record=lambda one: None,
    )
