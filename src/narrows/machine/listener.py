"""The other end of a measured link: `narrows machine --listen`, and a thread of it for the loopback.

Protocol: both sides say GREETING; then the caller sends a header (bytes that follow, bytes wanted back) and
that many bytes, and gets that many back. The contents mean nothing. A caller that says something else, stays
silent or asks for too much is let go; the others go on.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Final

GREETING: Final = b"narrows link 1\n"
HEADER: Final = struct.Struct("!II")  # bytes that follow, bytes wanted back
MAX_MESSAGE: Final = 16 << 20
PIECE_BYTES: Final = 256 << 10
POLL_S: Final = 0.2

log = logging.getLogger(__name__)


class LinkBroken(Exception):
    """The other side broke off or broke the protocol; the message says how."""


@dataclass(frozen=True, slots=True)
class ListenLimits:
    """What one caller may take of a listener."""

    silent_s: float = 10.0  # between bytes
    total_s: float = 120.0
    callers: int = 8  # at a time


class Listener:
    """Answers callers of a listening socket in threads until stopped."""

    def __init__(self, listening: socket.socket, limits: ListenLimits = ListenLimits()) -> None:
        self._socket = listening
        self._limits = limits
        self._places = threading.Semaphore(limits.callers)
        self._stopping = threading.Event()
        listening.settimeout(POLL_S)

    def run(self) -> None:
        """Returns after stop()."""
        while not self._stopping.is_set():
            try:
                caller, address = self._socket.accept()
            except TimeoutError:
                continue
            if not self._places.acquire(blocking=False):
                log.warning("%s turned away: %d callers already", address[0], self._limits.callers)
                caller.close()
                continue
            threading.Thread(target=self._answer, args=(caller, str(address[0])), daemon=True).start()

    def stop(self) -> None:
        """run() returns soon; whoever made the socket closes it."""
        self._stopping.set()

    def _answer(self, caller: socket.socket, name: str) -> None:
        try:
            with caller:
                caller.settimeout(self._limits.silent_s)
                caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                num_messages = answer(caller, deadline_s=time.monotonic() + self._limits.total_s)
                log.info("%s measured its link with %d messages", name, num_messages)
        except (LinkBroken, OSError) as error:
            log.warning("%s let go: %s", name, error)
        finally:
            self._places.release()


def answer(caller: socket.socket, *, deadline_s: float) -> int:
    """Serves one caller until it hangs up; how many messages came. Raises LinkBroken and OSError."""
    caller.sendall(GREETING)
    buffer = bytearray(PIECE_BYTES)
    count = 0
    try:
        if receive(caller, len(GREETING), buffer, deadline_s=deadline_s) != GREETING:
            raise LinkBroken("it does not speak this protocol")
        while True:
            num_bytes, wanted = HEADER.unpack(receive(caller, HEADER.size, buffer, deadline_s=deadline_s))
            if max(num_bytes, wanted) > MAX_MESSAGE:
                raise LinkBroken(f"it wants a message of more than {MAX_MESSAGE} bytes")
            discard(caller, num_bytes, buffer, deadline_s=deadline_s)
            send(caller, wanted)
            count += 1
    except EOFError:
        return count


def receive(peer: socket.socket, num_bytes: int, buffer: bytearray, *, deadline_s: float) -> bytes:
    """A few bytes as a whole. EOFError: hung up before the first; LinkBroken: within, or too late."""
    discard(peer, num_bytes, buffer, deadline_s=deadline_s, keep=True)
    return bytes(buffer[:num_bytes])


def discard(
    peer: socket.socket, num_bytes: int, buffer: bytearray, *, deadline_s: float, keep: bool = False
) -> None:
    """Reads `num_bytes`; with `keep` into the front of the buffer, where they must fit."""
    view, have = memoryview(buffer), 0
    while have < num_bytes:
        start = have if keep else 0
        got = peer.recv_into(view[start : start + min(num_bytes - have, len(view) - start)])
        if got == 0 and have == 0 and keep:
            raise EOFError
        if got == 0:
            raise LinkBroken(f"it hung up after {have} of {num_bytes} bytes")
        have += got
        if time.monotonic() > deadline_s:
            raise LinkBroken("it took too long")


def send(peer: socket.socket, num_bytes: int) -> None:
    zeros = memoryview(bytes(min(num_bytes, PIECE_BYTES)))
    while num_bytes:
        piece = zeros[:num_bytes]
        peer.sendall(piece)
        num_bytes -= len(piece)
