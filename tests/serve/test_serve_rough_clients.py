"""Clients that leave, half-close, do not read or do not write: their work ends, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from serve_harness import ASK, RunningServer, post_bytes, running_server, wait_for

from narrows.engine.config import EngineConfig
from narrows.engine.fake import FakeRunner, reply_with

CHAT = "/v1/chat/completions"
ENDLESS = {**ASK, "max_tokens": 480, "ignore_eos": True, "seed": 1}


def ask_raw(server: RunningServer, **fields: object) -> socket.socket:
    return server.raw(post_bytes(CHAT, json.dumps({**ENDLESS, **fields}).encode()))


def assert_serves(server: RunningServer) -> None:
    with server.client() as client:
        assert client.chat.completions.create(**ASK, max_tokens=3).choices[0].finish_reason


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_ends_its_work_within_a_step(stream: bool, n: int) -> None:
    runner = FakeRunner()
    runner.step_s = 0.02
    with running_server(runner=runner) as server:
        connection = ask_raw(server, stream=stream, n=n)
        wait_for(lambda: server.engine.stats().num_running == n)
        wait_for(lambda: server.engine.stats().output_tokens_total >= 3 * n)
        connection.close()
        before = server.engine.stats().output_tokens_total
        wait_for(server.is_idle)
        # The step under way when the connection closed, and the one that began before the abort arrived.
        assert server.engine.stats().output_tokens_total - before <= 2 * n
        assert server.engine.stats().finished_abort_total == n


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


@contextmanager
def stopped_loop(server: RunningServer) -> Iterator[None]:
    """What happens meanwhile is found by the server within one turn of its event loop."""
    has_stopped, may_go_on = threading.Event(), threading.Event()

    def stop() -> None:
        has_stopped.set()
        may_go_on.wait()

    server.server.servers[0].get_loop().call_soon_threadsafe(stop)
    has_stopped.wait()
    try:
        yield
    finally:
        may_go_on.set()


def half_close(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [reset, half_close])
def test_a_closed_connection_is_not_written_to(
    leave: Callable[[socket.socket], None], caplog: pytest.LogCaptureFixture
) -> None:
    """With many events ready at once: asyncio warns of every write but the first five."""
    runner = FakeRunner()
    runner.step_s = 0.004  # or the answer may be whole before its client leaves
    with running_server(runner=runner) as server:
        connection = ask_raw(server, stream=True)
        assert b" 200 " in connection.recv(4096)
        with stopped_loop(server):
            before = server.engine.stats().output_tokens_total
            wait_for(lambda: server.engine.stats().output_tokens_total - before > 20)
            runner.gate.clear()
            leave(connection)
        # The runner gives nothing meanwhile: what has come already is not sent, and ends the request.
        wait_for(lambda: server.service.num_under_way == 0)
        runner.gate.set()
        wait_for(server.is_idle)
        assert server.engine.stats().finished_abort_total == 1
        connection.close()
    assert caplog.text == ""


def test_a_client_that_leaves_the_queue_is_never_run() -> None:
    runner = FakeRunner()
    with running_server(runner=runner, engine_config=EngineConfig(max_running=1)) as server:
        runner.gate.clear()
        first = ask_raw(server)
        wait_for(lambda: server.engine.stats().num_running == 1)
        second = ask_raw(server, stream=True)
        wait_for(lambda: server.engine.stats().num_waiting == 1)
        second.close()
        wait_for(lambda: server.service.num_under_way == 1)
        runner.gate.set()
        wait_for(lambda: server.engine.stats().finished_abort_total == 1)
        assert b'"finish_reason"' in read_all(first)
        assert server.engine.stats().prompt_tokens_total == 4, "only the first was admitted"
        wait_for(server.is_idle)


def read_all(connection: socket.socket) -> bytes:
    """Until the body's end: the server keeps the connection open for the next request."""
    data = b""
    while not (data.endswith(b"\r\n0\r\n\r\n") or is_whole(data)):
        part = connection.recv(65536)
        if not part:
            break
        data += part
    connection.close()
    return data


def is_whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    lengths = [
        line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    ]
    return bool(found and lengths and len(body) >= int(lengths[0]))


async def _storm(server: RunningServer, expected: list[str], source: random.Random) -> int:
    """64 streams; every second one is dropped after a random number of chunks. Returns how many were
    dropped.
    """

    async def stream(seed: int, drop_after: int | None) -> bool:
        text = ""
        async with server.async_client() as client:
            chunks = await client.chat.completions.create(
                **{**ASK, "seed": seed, "max_tokens": 32}, stream=True
            )
            async for index, chunk in _enumerated(chunks):
                text += chunk.choices[0].delta.content or ""
                if index == drop_after:
                    await chunks.close()
                    return True
        assert drop_after is not None or text == expected[seed]
        return False

    drops = [source.randrange(12) if seed % 2 else None for seed in range(64)]
    return sum(await asyncio.gather(*(stream(seed, drop) for seed, drop in enumerate(drops))))


async def _enumerated(chunks):
    index = 0
    async for chunk in chunks:
        yield index, chunk
        index += 1


# A dropped stream leaves one of the client library's generators to the garbage collector, which may run in a
# thread of the server and then finds it executing: the client's matter, not the server's.
@pytest.mark.filterwarnings(
    r"ignore:Exception ignored in. <async_generator object:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("num_blocks", [1024, 96])
def test_a_cancel_storm_leaks_nothing_and_changes_no_other_answer(num_blocks: int) -> None:
    """With few blocks there are preemptions as well."""
    config = EngineConfig(max_running=64, max_waiting=64)
    with running_server(
        runner=FakeRunner(num_blocks=num_blocks, max_context=128), engine_config=config
    ) as server:
        with server.client() as client:
            expected = [
                client.chat.completions.create(**ASK, seed=seed, max_tokens=32).choices[0].message.content
                for seed in range(64)
            ]
        num_dropped = asyncio.run(_storm(server, expected, random.Random(0)))
        wait_for(server.is_idle)
        assert num_dropped > 20
        assert server.engine.stats().is_healthy
        wait_for(lambda: server.service.num_under_way == 0)


def test_a_client_that_does_not_read_holds_up_nobody_and_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    runner = FakeRunner(choose=lambda ids, index: 97, num_blocks=4096, max_context=8192)
    with running_server(runner=runner, send_timeout_s=0.5, ping_interval_s=0.1) as server:
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        lazy.connect(server.address)
        # Four streams of 8000 chunks are megabytes: more than the sockets hold.
        lazy.sendall(
            post_bytes(CHAT, json.dumps({**ENDLESS, "max_tokens": 8000, "stream": True, "n": 4}).encode())
        )
        wait_for(lambda: server.engine.stats().num_running == 4)
        began_s = time.monotonic()
        assert_serves(server)
        assert time.monotonic() - began_s < 5
        wait_for(lambda: server.service.num_under_way == 0, 40)
        wait_for(server.is_idle)
        lazy.close()
    assert "read nothing" in caplog.text


def test_half_closed_and_silent_connections_disturb_nobody(server: RunningServer) -> None:
    half_closed = ask_raw(server, stream=True)
    half_closed.shutdown(socket.SHUT_WR)
    openings = (
        b"",
        b"P",
        b"POST /v1/chat/completions HTTP/1.1\r\n",
        post_bytes(CHAT, b"x" * 100)[:-50],
        b"\x16\x03\x01\x02\x00",
    )
    silent = [server.raw(opening) for opening in openings]
    reset(ask_raw(server, stream=True))
    assert_serves(server)
    for connection in (half_closed, *silent):
        connection.close()
    wait_for(lambda: server.service.num_under_way == 0)
    wait_for(server.is_idle)


def test_a_body_that_does_not_come_is_given_up() -> None:
    with running_server(body_timeout_s=0.2) as server:
        connection = server.raw(post_bytes(CHAT, b" " * 1000)[:-500])
        assert b" 408 " in connection.recv(65536)
        connection.close()
        assert_serves(server)


def test_two_requests_on_one_connection_are_both_answered(server: RunningServer) -> None:
    body = json.dumps({**ASK, "max_tokens": 2}).encode()
    connection = server.raw(post_bytes(CHAT, body) + post_bytes(CHAT, body))
    data = b""
    while data.count(b'"chat.completion"') < 2:
        part = connection.recv(65536)
        assert part
        data += part
    connection.close()


def test_pings_keep_a_waiting_stream_alive() -> None:
    runner = FakeRunner(choose=reply_with("late"))
    with running_server(runner=runner, ping_interval_s=0.05) as server:
        runner.gate.clear()
        with server.http() as http, http.stream("POST", CHAT, json={**ASK, "stream": True}) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            seen = [next(lines) for _ in range(8)]
            assert seen.count(": waiting") >= 2
            runner.gate.set()
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        with server.client() as client:
            runner.step_s = 0.1
            chunks = list(client.chat.completions.create(**ASK, stream=True))
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "late"
