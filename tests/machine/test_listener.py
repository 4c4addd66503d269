"""The listener: whatever a caller does, it is let go and the next one is served."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from narrows.errors import InvalidConfig
from narrows.machine.links import Address, LinkBudget, measure_link
from narrows.machine.listener import GREETING, HEADER, MAX_MESSAGE, Listener, ListenLimits


@contextmanager
def listening(limits: ListenLimits) -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = Listener(server, limits)
        thread = threading.Thread(target=listener.run, daemon=True)
        thread.start()
        yield Address("127.0.0.1", server.getsockname()[1])
        assert thread.is_alive(), "it must go on whatever its callers do"
        listener.stop()
        thread.join(10)
        assert not thread.is_alive()


def call(address: Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=60)


def heard_until_closed(caller: socket.socket) -> bytes:
    heard = b""
    try:
        while piece := caller.recv(1024):
            heard += piece
    except ConnectionResetError:  # closed with something of ours unread
        pass
    return heard


def assert_serves(address: Address) -> None:
    """Again where the machine stood still for longer than a caller may be silent."""
    for _ in range(5):
        with suppress(InvalidConfig):
            assert measure_link(address, LinkBudget(answer_s=60.0, measure_s=0.05)).gb_per_s > 0
            return
    pytest.fail("the listener does not serve")


QUICK = ListenLimits(silent_s=0.3, total_s=20.0, callers=4)


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(64),
        GREETING + HEADER.pack(MAX_MESSAGE + 1, 1),
        GREETING + HEADER.pack(1, MAX_MESSAGE + 1),
        GREETING + HEADER.pack(2**32 - 1, 2**32 - 1),
    ],
)
def test_garbage_and_too_much_are_let_go(words: bytes) -> None:
    with listening(QUICK) as address:
        with call(address) as caller:
            caller.sendall(words)
            assert heard_until_closed(caller) == GREETING
        assert_serves(address)


@pytest.mark.parametrize("words", [b"", GREETING[:5], GREETING, GREETING + HEADER.pack(1000, 1) + b"x" * 10])
def test_a_silent_caller_is_let_go_and_others_are_served_meanwhile(words: bytes) -> None:
    with listening(QUICK) as address, call(address) as caller:
        caller.sendall(words)
        assert_serves(address)
        assert heard_until_closed(caller) == GREETING


@pytest.mark.parametrize("words", [b"", GREETING, GREETING + HEADER.pack(1000, 1) + b"x" * 10])
def test_a_caller_who_hangs_up_is_forgotten(words: bytes) -> None:
    with listening(QUICK) as address:
        for _ in range(QUICK.callers + 2):  # each place is free again
            with call(address) as caller:
                caller.sendall(words)
                caller.shutdown(socket.SHUT_WR)
                heard_until_closed(caller)
        assert_serves(address)


def test_a_slow_caller_has_its_time() -> None:
    with listening(ListenLimits(silent_s=5.0, total_s=0.5, callers=4)) as address, call(address) as caller:
        caller.sendall(GREETING + HEADER.pack(1_000_000, 1))
        began_s = time.monotonic()
        let_go = False
        while not let_go and time.monotonic() - began_s < 30:
            time.sleep(0.02)
            try:
                caller.sendall(b"x")
            except OSError:  # reset, or a broken pipe
                let_go = True
        assert let_go
        assert_serves(address)


def test_more_callers_than_places_are_turned_away() -> None:
    with listening(ListenLimits(silent_s=20.0, callers=1)) as address, call(address) as first:
        assert first.recv(len(GREETING)) == GREETING
        with call(address) as second:
            assert heard_until_closed(second) == b""
        first.close()
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:  # until the listener has noticed
            with call(address) as third:
                if third.recv(len(GREETING)) == GREETING:
                    return
        pytest.fail("the place of the first was never free again")


def test_as_many_bytes_come_back_as_were_wanted() -> None:
    with listening(QUICK) as address, call(address) as caller:
        caller.sendall(GREETING)
        for sent, wanted in ((0, 0), (1, 0), (0, 3), (300_000, 600_000)):
            caller.sendall(HEADER.pack(sent, wanted) + bytes(sent))
        caller.shutdown(socket.SHUT_WR)
        assert len(heard_until_closed(caller)) == len(GREETING) + 3 + 600_000
