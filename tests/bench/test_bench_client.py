"""The client against a scripted server on a real socket: every way in which an answer can go wrong is
counted.

No test here looks at how long anything took; benchmarks/bench_accuracy.py does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from narrows.bench.client import Client, Target
from narrows.bench.clock import new_loop
from narrows.bench.fake import MODEL, Script, ScriptedServer
from narrows.bench.latency import latency_of
from narrows.bench.load import Load, Phase
from narrows.bench.metrics import summarize
from narrows.bench.prompts import Prompt
from narrows.bench.record import Record
from narrows.bench.server import parse_url
from narrows.bench.workload import Planned

QUICK = tuple((0.001, 1) for _ in range(5))


def run(work: Callable[[], Awaitable[object]]):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(work())


def target_of(url: str, *, timeout_s: float = 20.0, route: str = "chat", **fields: object) -> Target:
    return Target(parse_url(url, None).endpoint, "/v1", MODEL, route, fields, timeout_s)


def ask(script: Script, *, timeout_s: float = 20.0, route: str = "chat") -> Record:
    async def work() -> Record:
        async with ScriptedServer(lambda body, number: script).running() as server:
            target = target_of(server.url, timeout_s=timeout_s, route=route)
            client = Client(target, began_s=asyncio.get_running_loop().time())
            return await client.send(Planned(0, Prompt.of_text("a b c"), 5), None)

    return run(work)


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_a_good_answer_of_either_route(route) -> None:
    record = ask(Script(QUICK, timing={"ttft_ms": 2.5, "tpot_ms": None}), route=route)
    assert record.error is None, record.detail
    assert (record.num_prompt, record.num_output, len(record.pieces)) == (8, 5, 5)
    assert (record.finish_reason, record.has_done, record.status) == ("length", True, 200)
    assert record.server_ms == {"ttft": 2.5}
    times = [record.intended_s, record.sent_s, *(piece.at_s for piece in record.pieces), record.end_s]
    assert times == sorted(times)


def test_times_agree_with_the_servers_stamps_in_order() -> None:
    """Both use CLOCK_MONOTONIC: no chunk can arrive before it was handed to the system."""

    async def work() -> tuple[Record, list[float]]:
        async with ScriptedServer(lambda body, number: Script(QUICK)).running() as server:
            client = Client(target_of(server.url), began_s=0.0)
            record = await client.send(Planned(0, Prompt.of_text("a"), 5), None)
            return record, server.stamps[0].sent_s

    record, sent_s = run(work)
    assert len(sent_s) == len(record.pieces)
    assert all(piece.at_s > at_s - 1e-3 for piece, at_s in zip(record.pieces, sent_s, strict=True))


@pytest.mark.parametrize(
    ("script", "error", "detail"),
    [
        (Script(status=429, body=b'{"error": {"message": "queue full"}}'), "http", "queue full"),
        (Script(status=500, body=b"<html>oops</html>", content_type="text/html"), "http", "oops"),
        (Script(content_type="application/json", body=b'{"choices": []}'), "not_a_stream", "choices"),
        (Script(QUICK, fault="close"), "closed", "before it answered"),
        (Script(QUICK, fault="close", fault_at=2), "closed", "closed the connection"),
        (Script(QUICK, fault="reset", fault_at=2), "closed", "the connection"),
        (Script(QUICK, fault="garbage"), "malformed", "1 lines"),
        (Script(QUICK, fault="garbage", fault_at=3), "malformed", "1 lines"),
        (Script(QUICK, fault="bad_json", fault_at=1), "malformed", "no JSON object"),
        (Script(QUICK, fault="bad_shape", fault_at=1), "malformed", "wrong shape"),
        (Script(QUICK, fault="error_event", fault_at=2), "error_event", "out of memory"),
        (Script(()), "no_tokens", "without a token"),
        (Script(QUICK, has_done=False, fault="no_finish", fault_at=99), "closed", "without [DONE]"),
    ],
)
def test_every_fault_has_its_kind(script, error, detail) -> None:
    record = ask(script)
    assert record.error == error, record.detail
    assert detail in record.detail
    if script.fault_at:
        assert record.pieces, "what arrived before stays"
        assert latency_of(record) is not None


def test_a_server_that_hangs_is_left_after_the_timeout_and_notices() -> None:
    async def work() -> Phase:
        scripts = [Script(QUICK, fault="hang"), Script(QUICK, fault="hang", fault_at=2)]
        async with ScriptedServer(lambda body, number: scripts[number]).running() as server:
            target = target_of(server.url, timeout_s=0.4)
            load = Load(
                lambda began_s: Client(target, began_s=began_s),
                stop=asyncio.Event(),
                on_record=lambda one: None,
            )
            phase = await load.closed_loop("x", [Planned(i, Prompt.of_text("a"), 5) for i in range(2)], 1)
            while not all(stamps.was_left for stamps in server.stamps):
                await asyncio.sleep(0.01)
            return phase

    phase = run(work)
    first, second = (record.error for record in phase.records)
    assert first == "timeout_first"
    # A machine that stops for so long may keep its first token back; on a virtual clock it is exact.
    assert second in ("timeout", "timeout_first")
    summary = summarize(phase, {})
    assert (summary.requests.ok, summary.requests.failed) == (0, 2)


def test_no_done_after_a_finish_reason_is_a_flaw_and_no_error() -> None:
    record = ask(Script(QUICK, has_done=False))
    assert record.error is None
    assert not record.has_done


def test_a_stream_that_says_done_ends_there_whatever_the_connection_does() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(
            b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        )
        await reader.read()
        writer.close()
        left.set()

    left = asyncio.Event()

    async def work() -> Record:
        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = Client(target_of(f"http://127.0.0.1:{port}", timeout_s=20.0), began_s=0.0)
        try:
            return await client.send(Planned(0, Prompt.of_text("a"), 1), None)
        finally:
            await left.wait()
            server.close()

    record = run(work)
    assert record.error is None, record.detail
    assert record.num_output is None


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nx",
    ],
)
def test_what_is_no_http_is_counted(answer) -> None:
    async def work() -> Record:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            left.set()

        left = asyncio.Event()
        server = await asyncio.start_server(reply, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            client = Client(target_of(f"http://127.0.0.1:{port}", timeout_s=20.0), began_s=0.0)
            return await client.send(Planned(0, Prompt.of_text("a"), 1), None)
        finally:
            await left.wait()
            server.close()

    assert run(work).error in ("malformed", "closed")


def test_a_server_that_dies_in_the_middle_of_a_run_is_counted() -> None:
    async def work() -> Phase:
        scripted = ScriptedServer(lambda body, number: Script(tuple((0.05, 1) for _ in range(40))))
        running = scripted.running()
        server = await running.__aenter__()
        target = target_of(server.url)
        load = Load(
            lambda began_s: Client(target, began_s=began_s),
            stop=asyncio.Event(),
            on_record=lambda one: None,
        )
        plan = [Planned(i, Prompt.of_text("a"), 5, None, i * 0.1) for i in range(8)]
        asyncio.get_running_loop().call_later(
            0.45, lambda: tasks.append(asyncio.create_task(running.__aexit__(None, None, None)))
        )
        tasks: list[asyncio.Task[object]] = []
        phase = await load.open_loop("x", plan)
        await asyncio.gather(*tasks)
        return phase

    phase = run(work)
    assert len(phase.records) == 8, "every request has its record"
    assert {record.error for record in phase.records} <= {"closed", "refused"}
    assert phase.records[-1].error == "refused"
