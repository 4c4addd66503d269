"""What a message to another machine costs: latency + bytes / bandwidth, fitted over several sizes.

The alpha-beta model of R. Hockney, "The communication challenge for MPP: Intel Paragon and Meiko CS-2",
Parallel Computing 20(3), 1994. The other end is a listener (listener.py), here or there.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from narrows.errors import InvalidConfig
from narrows.machine.listener import GREETING, HEADER, LinkBroken, Listener, receive
from narrows.machine.profile import Link

SIZES: Final = (1, 1 << 10, 16 << 10, 128 << 10, 1 << 20, 4 << 20)  # bytes sent; one byte comes back
LEAST_SIZES: Final = 3
LEAST_ROUNDS: Final = 3
MOST_ROUNDS: Final = 200
SHOWN_BYTES: Final = 40  # of what something else says


@dataclass(frozen=True, slots=True)
class LinkBudget:
    answer_s: float = 5.0  # silence up to here is waited for
    measure_s: float = 1.2
    slowest_s: float = 0.1  # a round trip; of a slow link no longer messages are sent


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, option: str, host: str | None = None) -> Address:
    """ "host:port", "[v6]:port", or, where `host` is given, a port alone. Raises InvalidConfig."""
    before, colon, after = text.rpartition(":")
    name = before.removeprefix("[").removesuffix("]") if colon else host
    if not name or not after.isdigit() or int(after) > 65535 or (":" in name and not before.startswith("[")):
        raise InvalidConfig(f"{option} is {text!r}; it must be host:port, as in 192.0.2.7:7070")
    return Address(name, int(after))


def measure_loopback(budget: LinkBudget = LinkBudget()) -> Link:
    """TCP between two sockets of this machine. Raises OSError where it has no loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listener = Listener(listening)
        thread = threading.Thread(target=listener.run, daemon=True)
        thread.start()
        try:
            link = measure_link(Address("127.0.0.1", listening.getsockname()[1]), budget)
        finally:
            listener.stop()
            thread.join()
    return Link("loopback", link.latency_s, link.gb_per_s)


def measure_link(address: Address, budget: LinkBudget = LinkBudget()) -> Link:
    """Raises InvalidConfig saying what is at the address instead of a listener, and what to do."""
    try:
        with socket.create_connection((address.host, address.port), timeout=budget.answer_s) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _greet(peer, address)
            samples = _times(peer, budget)
    except ConnectionRefusedError as error:
        raise InvalidConfig(
            f"nobody listens at {address}; start 'narrows machine --listen {address}' on that machine"
        ) from error
    except TimeoutError as error:
        raise InvalidConfig(
            f"no answer from {address} within {budget.answer_s:g} s; is the address right, and does a "
            "firewall let it through?"
        ) from error
    except socket.gaierror as error:
        raise InvalidConfig(f"there is no machine called {address.host!r} ({error.strerror})") from error
    except (LinkBroken, EOFError, OSError) as error:
        raise InvalidConfig(f"the link to {address} broke: {error or 'it hung up'}") from error
    return fit(str(address), samples)


def fit(peer: str, samples: Sequence[tuple[int, float]]) -> Link:
    """Least squares of relative errors over (bytes there and back, round trip in seconds), so that the small
    messages tell the latency and the large ones the bandwidth. A round trip holds the latency twice."""
    s_ww = s_wx = s_wxx = s_wy = s_wxy = 0.0
    for x, seconds in samples:
        w = 1.0 / seconds**2
        s_ww, s_wx, s_wxx = s_ww + w, s_wx + w * x, s_wxx + w * x * x
        s_wy, s_wxy = s_wy + w * seconds, s_wxy + w * x * seconds
    scale = s_ww * s_wxx - s_wx * s_wx
    twice_latency = (s_wxx * s_wy - s_wx * s_wxy) / scale
    per_byte = (s_ww * s_wxy - s_wx * s_wy) / scale
    (_, least), (most_bytes, most) = samples[0], samples[-1]
    if twice_latency <= 0:  # noise: the smallest message is the better witness
        twice_latency = least
    if per_byte <= 0:
        per_byte = most / most_bytes
    return Link(peer, twice_latency / 2, 1e-9 / per_byte)


def _greet(peer: socket.socket, address: Address) -> None:
    peer.sendall(GREETING)
    heard = b""
    while len(heard) < len(GREETING) and GREETING.startswith(heard):
        piece = peer.recv(SHOWN_BYTES)
        heard += piece
        if not piece:
            break
    if heard != GREETING:
        said = repr(heard[:SHOWN_BYTES]) if heard else "nothing"
        raise InvalidConfig(
            f"{address} is no 'narrows machine --listen': it said {said}; name the port that command printed"
        )


def _times(peer: socket.socket, budget: LinkBudget) -> list[tuple[int, float]]:
    """(bytes there and back, the best round trip) by size; sizes that would take too long are left out."""
    began_s = time.monotonic()
    messages = [HEADER.pack(size, 1) + bytes(size) for size in SIZES]
    best = [float("inf")] * len(SIZES)
    used = len(SIZES)
    for done in range(MOST_ROUNDS):
        for i in range(used):
            best[i] = min(best[i], _round_trip(peer, messages[i], budget))
            if best[i] > budget.slowest_s and i + 1 >= LEAST_SIZES:
                used = i + 1
                break
        if done + 1 >= LEAST_ROUNDS and time.monotonic() - began_s > budget.measure_s:
            break
    return [(size + 1, seconds) for size, seconds in zip(SIZES[:used], best, strict=False)]


def _round_trip(peer: socket.socket, message: bytes, budget: LinkBudget) -> float:
    began_s = time.perf_counter()
    peer.sendall(message)
    receive(peer, 1, bytearray(1), deadline_s=time.monotonic() + budget.answer_s)
    return time.perf_counter() - began_s
