"""A client of the chat route over a plain socket, which notes when each piece of text arrived.

In: the server's URL and a request. Out: Pieces, then the usage. Knows nothing of the server but its API.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from narrows.errors import NarrowsError


class StreamFailed(NarrowsError):
    """The server refused the request or ended its stream with an error."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One event: text, the last one of which has usage. `since_sent_s` counts from the request's last byte
    sent.
    """

    text: str
    since_sent_s: float
    usage: Mapping[str, Any] | None = None


def stream_chat(url: str, request: Mapping[str, Any], *, timeout_s: float = 60.0) -> Iterator[Piece]:
    """Sends a streamed chat completion; raises StreamFailed with the server's words."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    body = json.dumps({**request, "stream": True, "stream_options": {"include_usage": True}})
    try:
        connection.request(
            "POST", "/v1/chat/completions", body=body, headers={"content-type": "application/json"}
        )
        sent_s = time.perf_counter()
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise StreamFailed(f"the server answered {response.status}: {response.read().decode()}")
        for line in response:
            if line.startswith(b"data: {"):
                yield _piece(json.loads(line[6:]), time.perf_counter() - sent_s)
    finally:
        connection.close()


def read_gauge(url: str, name: str) -> float:
    """One value of /metrics."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        for line in connection.getresponse().read().decode().splitlines():
            if line.startswith(name + "{"):
                return float(line.rpartition(" ")[2])
    finally:
        connection.close()
    raise StreamFailed(f"the server's /metrics has no {name}")


def _piece(event: Mapping[str, Any], since_sent_s: float) -> Piece:
    if "error" in event:
        raise StreamFailed(event["error"]["message"])
    text = "".join(choice["delta"].get("content", "") for choice in event["choices"])
    return Piece(text, since_sent_s, event.get("usage"))


def wait_until_ready(url: str, *, timeout_s: float = 30.0) -> float:
    """Asks /ready until it says yes; returns when that was, by time.perf_counter."""
    parts = urlsplit(url)
    end_s = time.perf_counter() + timeout_s
    while time.perf_counter() < end_s:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        try:
            connection.request("GET", "/ready")
            if connection.getresponse().status == http.client.OK:
                return time.perf_counter()
        finally:
            connection.close()
        time.sleep(0.01)
    raise StreamFailed(f"the server at {url} was not ready within {timeout_s:g} s")
