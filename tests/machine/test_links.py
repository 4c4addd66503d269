"""Links: the fit, a slow link made by a proxy, and what is said of peers that are none."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from narrows.errors import InvalidConfig
from narrows.machine.links import Address, LinkBudget, fit, measure_link, measure_loopback, parse_address
from narrows.machine.listener import GREETING, Listener

QUICK = LinkBudget(answer_s=60.0, measure_s=0.3)
IMPATIENT = LinkBudget(answer_s=0.3, measure_s=0.3)


@contextmanager
def serving(talk: Callable[[socket.socket], None]) -> Iterator[Address]:
    """Something at an address: every caller is talked to in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    caller, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=talk_and_close, args=(caller,), daemon=True).start()

        def talk_and_close(caller: socket.socket) -> None:
            with caller, suppress(OSError):
                talk(caller)

        threading.Thread(target=accept, daemon=True).start()
        yield Address("127.0.0.1", listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)


@contextmanager
def listener() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = Listener(listening)
        thread = threading.Thread(target=one.run, daemon=True)
        thread.start()
        yield Address("127.0.0.1", listening.getsockname()[1])
        one.stop()
        thread.join()


@contextmanager
def slow_link(*, bytes_per_s: float, answer_s: float) -> Iterator[Address]:
    """A proxy to a listener: so many bytes a second there, every answer late."""
    with listener() as behind:

        def talk(caller: socket.socket) -> None:
            with socket.create_connection((behind.host, behind.port)) as server:
                threading.Thread(target=back, args=(server, caller), daemon=True).start()
                while piece := caller.recv(64 << 10):
                    time.sleep(len(piece) / bytes_per_s)
                    server.sendall(piece)

        def back(server: socket.socket, caller: socket.socket) -> None:
            with suppress(OSError):
                while piece := server.recv(64 << 10):
                    time.sleep(answer_s)
                    caller.sendall(piece)

        with serving(talk) as address:
            yield address


def test_the_fit_finds_latency_and_bandwidth() -> None:
    latency_s, gb_per_s = 25e-6, 3.0
    samples = [(n, 2 * latency_s + n / (gb_per_s * 1e9)) for n in (2, 1025, 16385, 1048577)]
    link = fit("x", samples)
    assert link.latency_s == pytest.approx(latency_s)
    assert link.gb_per_s == pytest.approx(gb_per_s)


def test_a_noisy_fit_gives_neither_negative_latency_nor_negative_bandwidth() -> None:
    for samples in (
        [(2, 1e-3), (1000, 1e-3), (1_000_000, 0.5e-3)],
        [(2, 1e-6), (1000, 2e-3), (1_000_000, 2.0)],
    ):
        link = fit("x", samples)
        assert link.latency_s > 0
        assert link.gb_per_s > 0


def test_the_loopback_is_measured() -> None:
    link = measure_loopback(QUICK)
    assert link.peer == "loopback"
    assert 0 < link.latency_s < 1
    assert 1e-3 < link.gb_per_s < 1e3


@pytest.mark.parametrize(("mb_per_s", "answer_s"), [(100.0, 2e-3), (10.0, 20e-3)])
def test_a_slow_link_is_measured_as_slow(mb_per_s: float, answer_s: float) -> None:
    with slow_link(bytes_per_s=mb_per_s * 1e6, answer_s=answer_s) as address:
        link = measure_link(address, QUICK)
    assert link.peer == str(address)
    assert mb_per_s / 10 < link.gb_per_s * 1e3 < mb_per_s * 1.5
    assert answer_s / 2 * 0.7 < link.latency_s < answer_s * 10


def test_a_refused_peer_is_told_how_to_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InvalidConfig, match=f"nobody listens.*narrows machine --listen 127.0.0.1:{port}"):
        measure_link(Address("127.0.0.1", port), IMPATIENT)


def test_a_machine_without_a_name_is_unknown() -> None:
    with pytest.raises(InvalidConfig, match=r"no machine called 'nowhere\.invalid'"):
        measure_link(Address("nowhere.invalid", 7070), IMPATIENT)


def say_nothing(caller: socket.socket) -> None:
    caller.settimeout(20)
    while caller.recv(1024):
        pass


def say_garbage(caller: socket.socket) -> None:
    caller.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    say_nothing(caller)


def hang_up(caller: socket.socket) -> None:
    caller.recv(len(GREETING))


def greet_and_hang_up(caller: socket.socket) -> None:
    caller.sendall(GREETING)
    caller.recv(1024)


def greet_and_say_nothing(caller: socket.socket) -> None:
    caller.sendall(GREETING)
    say_nothing(caller)


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (say_nothing, "no answer from"),
        (say_garbage, r"is no 'narrows machine --listen': it said b'SSH-2.0-OpenSSH"),
        (hang_up, "it said nothing"),
        (greet_and_hang_up, "broke"),
        (greet_and_say_nothing, "no answer from"),
    ],
)
def test_what_is_no_listener_is_named(talk: Callable[[socket.socket], None], said: str) -> None:
    budget = IMPATIENT if said == "no answer from" else QUICK
    with serving(talk) as address, pytest.raises(InvalidConfig, match=said):
        measure_link(address, budget)


def test_addresses_are_read_with_their_host() -> None:
    assert parse_address("node7:7070", option="--peer") == Address("node7", 7070)
    assert parse_address("[::1]:7070", option="--peer") == Address("::1", 7070)
    assert str(Address("::1", 7070)) == "[::1]:7070"
    assert parse_address("7070", option="--listen", host="127.0.0.1") == Address("127.0.0.1", 7070)
    for text in ("", "node7", "node7:", ":7070", "node7:port", "node7:70000", "::1:7070", "7070"):
        with pytest.raises(InvalidConfig, match="--peer is"):
            parse_address(text, option="--peer")
